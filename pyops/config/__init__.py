"""pyops.yml."""
