"""Where a refused text stops being JSON, and why (RFC 8259; half a surrogate pair is an error)."""

import re

_TOKEN = re.compile(
    r'[ \t\n\r]++|(?P<string>"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+")'
    r"|(?P<scalar>-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?(?![0-9.eE+-])"
    r"|(?:true|false|null)(?![a-zA-Z0-9_]))"
    r"|(?P<mark>[][{},:])"
)
_STRING_SO_FAR = re.compile(r'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+')
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)")
_WANTED = {
    "value": "a value",
    "first": "a value or ]",
    "key": "a key in quotes",
    "first key": "a key in quotes or }",
    "colon": "a colon",
    "next": "a comma or the closing bracket",
    "end": "the end",
}


def describe(text: str, *, skipped: int = 0, lines: bool = True) -> str:
    """Says where and why in positions from 1; ``skipped`` bytes before the text count as well."""
    offset, problem = find_fault(text) or (0, "valid JSON, but it cannot be stored")
    column = offset - text.rfind("\n", 0, offset)
    byte = len(text[:offset].encode("utf-8", "replace")) + 1 + skipped
    line = f"line {text.count(chr(10), 0, offset) + 1}, " if lines else ""
    return f"{line}column {column}, byte {byte}: {problem}"


def find_fault(text: str) -> tuple[int, str] | None:
    """The offset of the first fault, and what it is; None if there is none."""
    state, position = "value", 0
    brackets: list[str] = []  # that are still to be closed, as their closing ones
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            return _inside(text, position, state)
        kind, word = token.lastgroup, token[0]
        if kind is not None:
            if kind == "string" and (half := _half_pair(word)) is not None:
                return position + half, "half a surrogate pair is not a character"
            following = _following(state, kind, word, brackets)
            if following is None:
                return position, f"expected {_WANTED[state]}"
            state = following
        position = token.end()
    return None if state == "end" else (position, f"unexpected end: expected {_WANTED[state]}")


def _following(state: str, kind: str, word: str, brackets: list[str]) -> str | None:
    """The state after a token; None if the token cannot be there."""
    if kind == "mark" and word in "]}":
        closes = state == "next" or state == {"]": "first", "}": "first key"}[word]
        if not closes or not brackets or brackets.pop() != word:
            return None
        return "next" if brackets else "end"
    if state in {"value", "first"}:
        if word in {"[", "{"}:
            brackets.append({"[": "]", "{": "}"}[word])
            return {"[": "first", "{": "first key"}[word]
        if kind == "mark":
            return None
        return "next" if brackets else "end"
    if state in {"key", "first key"}:
        return "colon" if kind == "string" else None
    if state == "colon":
        return "value" if word == ":" else None
    if state == "next" and word == ",":
        return "value" if brackets[-1] == "]" else "key"
    return None


def _inside(text: str, position: int, state: str) -> tuple[int, str]:
    if text[position] != '"':
        return position, f"expected {_WANTED[state]}"
    so_far = _STRING_SO_FAR.match(text, position)
    end = so_far.end() if so_far else position
    if end == len(text):
        return position, "the string is never closed"
    if text[end] == "\\":
        return end, "the string has an invalid escape"
    return end, "the string has a control character"


def _half_pair(string: str) -> int | None:
    """Where a string has an escape of half a surrogate pair; None if nowhere."""
    if "\\u" not in string:
        return None
    high = -6  # where the last first half was
    for escape in _ESCAPE.finditer(string):
        code = int(escape[1] or "0", 16)
        is_second = 0xDC00 <= code <= 0xDFFF
        follows = high == escape.start() - 6
        if high >= 0 and not (is_second and follows):
            return high
        if is_second and not follows:
            return escape.start()
        high = escape.start() if 0xD800 <= code <= 0xDBFF else -6
    return high if high >= 0 else None
