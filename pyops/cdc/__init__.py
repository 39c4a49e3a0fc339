"""Change data capture from PostgreSQL's logical decoding."""
