"""Getting trials onto machines."""
