"""Where a refused text stops being JSON, and why (RFC 8259; half a surrogate pair is an error)."""

import json
import re

_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|u(?P<half>[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"')


def describe(text: str, *, skipped: int = 0, lines: bool = True) -> str:
    """Says where and why in positions from 1; ``skipped`` bytes before the text count as well."""
    offset, problem = find_fault(text) or (0, "valid JSON, but it cannot be stored")
    column = offset - text.rfind("\n", 0, offset)
    byte = len(text[:offset].encode("utf-8", "replace")) + 1 + skipped
    line = f"line {text.count(chr(10), 0, offset) + 1}, " if lines else ""
    return f"{line}column {column}, byte {byte}: {problem}"


def find_fault(text: str) -> tuple[int, str] | None:
    """The offset of the first fault, and what it is; None if there is none."""
    try:  # numbers as the texts they are: Python would refuse long ones
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        return error.pos, error.msg.removesuffix(" at").lower()
    except RecursionError:
        return 0, "nested too deeply"
    except ValueError as error:  # blanks keep the places of what is no string
        return _STRING.sub(lambda found: " " * len(found[0]), text).find(str(error)), "not a number"
    half = next((found for found in _ESCAPE.finditer(text) if found["half"]), None)
    return (half.start(), "half a surrogate pair is not a character") if half else None


def _refuse(constant: str) -> None:
    raise ValueError(constant)
