"""The staging file, and how values get their types."""
