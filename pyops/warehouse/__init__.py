"""The warehouse and its bookkeeping."""
