"""What was learned: from run directories to tables."""
