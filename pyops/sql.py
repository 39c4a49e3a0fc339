"""Quoting for SQL text; PostgreSQL and DuckDB share the standard's rules. Pure functions."""


def identifier(name: str) -> str:
    """Quotes one identifier, whatever characters it holds."""
    return '"' + name.replace('"', '""') + '"'


def qualified(*names: str) -> str:
    """Quotes and joins the parts of a qualified name."""
    return ".".join(identifier(name) for name in names)


def literal(text: str) -> str:
    """Quotes a string constant, where no parameter can be bound (ATTACH, CASE branches)."""
    return "'" + text.replace("'", "''") + "'"


def columns(names: list[str] | tuple[str, ...], *, of: str = "") -> str:
    """Lists column names, each quoted and prefixed with a table alias if one is given."""
    prefix = f"{of}." if of else ""
    return ", ".join(prefix + identifier(name) for name in names)


def json_pointer(name: str) -> str:
    """The path of one field of a JSON object, whatever characters its name has (RFC 6901)."""
    return "/" + name.replace("~", "~0").replace("/", "~1")
