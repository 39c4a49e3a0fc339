"""The known word that is nearest to an unknown one."""

import difflib


def did_you_mean(word: str, known: list[str]) -> str:
    """Asks for the known word that is nearest to an unknown one; empty if none is near."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else ""
