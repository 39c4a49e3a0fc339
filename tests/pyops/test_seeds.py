"""The seeds say something of every value that the sample shop has, and of no other."""

import re

import duckdb

from tests.pyops.dbt_runs import PROJECT


def names(column: str, file: str) -> set[str]:
    with duckdb.connect() as connection:
        connection.execute(f"SELECT DISTINCT {column} FROM '{PROJECT / file}'")
        return {row[0] for row in connection.fetchall()}


def test_countries_are_the_ones_of_the_data() -> None:
    known = names("country", "seeds/countries.csv")
    assert known == names("country", "data/online_retail.parquet")
    assert len(known) == 38


def test_order_statuses_are_the_ones_the_shop_allows() -> None:
    tables = (PROJECT / "pyops" / "demo" / "tables.sql").read_text("utf-8")
    allowed = re.search(r"check \(status in \((.*?)\)\)", tables)
    assert allowed is not None
    assert names("status", "seeds/order_statuses.csv") == set(re.findall(r"'(\w+)'", allowed[1]))
