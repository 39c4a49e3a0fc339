"""Files, read by batch."""
