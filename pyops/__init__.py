"""Lands PostgreSQL, files and APIs in an embedded DuckDB warehouse, for dbt to model."""
