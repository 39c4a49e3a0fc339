"""PostgreSQL, read by batch."""
