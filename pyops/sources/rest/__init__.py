"""HTTP APIs, read by batch."""
