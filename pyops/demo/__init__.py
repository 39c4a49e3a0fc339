"""The sample shop in an embedded PostgreSQL server."""
