"""Changes read from a replication slot."""
