"""Changes read from Debezium's events."""
