"""The commands: flags -> one call of the pipeline or of a query -> words and an exit code."""
