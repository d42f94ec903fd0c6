"""How long a text of others (an error, a program's end, a name from a node) may be in a status, condition or event."""

from __future__ import annotations

LONGEST_TEXT = 1024
LONGEST_WORD = 128

_BETWEEN = " … "


def truncate(text: str, length: int = LONGEST_TEXT) -> str:
    """`text` with at most `length` characters: the beginning and the end, where what matters stands as a rule. What no
    JSON can hold (half a surrogate, of a name that is no text) becomes '?'."""
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    if len(text) <= length:
        return text
    tail = (length - len(_BETWEEN)) // 4
    return f"{text[: length - len(_BETWEEN) - tail]}{_BETWEEN}{text[-tail:]}"
