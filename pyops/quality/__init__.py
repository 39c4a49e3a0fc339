"""What staged rows must pass."""
