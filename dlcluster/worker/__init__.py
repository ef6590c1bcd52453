"""Inside the job: standard library only."""
