"""What the user asked for: from YAML text to trials."""
