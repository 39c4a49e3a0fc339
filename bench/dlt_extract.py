"""Lands one table with dlt; run in the environment of its own that constraints.txt describes.

Usage: dlt_extract.py BACKEND DSN TABLE FOLDER
"""

import sys
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import dlt  # type: ignore[import-not-found]
from dlt.sources.sql_database import sql_table  # type: ignore[import-not-found]


def connectorx_dsn(dsn: str) -> str:
    """The same DSN as connectorx takes it: the socket's folder in the place of the host."""
    parts = urlsplit(dsn)
    folder = quote(parse_qs(parts.query)["host"][0], safe="")
    return f"postgresql://{parts.username}@{folder}{parts.path}"


def main(backend: str, dsn: str, table: str, folder: Path) -> None:
    # Types as the catalog has them; connectorx in the streaming mode that dlt's manual advises for
    # large tables.
    streaming = {"conn": connectorx_dsn(dsn), "return_type": "arrow_stream"}
    resource = sql_table(
        credentials=dsn.replace("postgresql://", "postgresql+psycopg2://"),
        table=table,
        backend=backend,
        chunk_size=100_000,
        reflection_level="full_with_precision",
        backend_kwargs=streaming if backend == "connectorx" else {},
    )
    pipeline = dlt.pipeline(
        "bench",
        pipelines_dir=str(folder / "pipelines"),
        destination=dlt.destinations.duckdb(str(folder / "warehouse.duckdb")),
        dataset_name="raw",
    )
    pipeline.run(resource, write_disposition="replace").raise_on_failed_jobs()


if __name__ == "__main__":
    _, backend, dsn, table, folder = sys.argv
    main(backend, dsn, table, Path(folder))
