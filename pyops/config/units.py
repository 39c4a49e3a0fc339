"""Durations and sizes as people write them. Pure functions."""

import re
from datetime import timedelta

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}  # as PostgreSQL's


def duration(text: str) -> timedelta:
    """The duration that a text like ``10m`` means; a ValueError names an invalid one."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", text.strip())
    if match is None:
        raise ValueError(f"invalid duration {text!r}: write a number and ms, s, m, h or d, like 10m")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


def size(text: str) -> int:
    """The bytes of a size like ``1GB``, as PostgreSQL counts; a ValueError names an invalid one."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"invalid size {text!r}: write a number and B, kB, MB, GB or TB, like 1GB")
    return int(float(match[1]) * _BYTES[match[2].upper()])
