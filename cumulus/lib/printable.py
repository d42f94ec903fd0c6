"""Makes text harmless to show: what others wrote may hold control characters, which move a terminal's cursor, change
what is on it, and forge lines. Standard library only; `cumulus.lib.safe_output` puts it in front of every terminal.

Harmless to show is not the same as honest: letters of several scripts look alike. Names are ASCII for that reason.
"""

from __future__ import annotations

import re
import unicodedata

# C0 and C1 controls and DEL; marks, embeddings, overrides and isolates of bidirectional text, which reorder what stands
# beside them; separators that some programs take for line ends; invisible characters; half characters. The joiners
# (200c, 200d) stay: Persian, Indic scripts and emoji are written with them.
_HARMFUL = (
    "\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f"
)
_IN_LINES = re.compile(f"[\x00-\x1f{_HARMFUL}]")
_IN_BLOCKS = re.compile(f"[\x00-\x08\x0b-\x1f{_HARMFUL}]")
_IN_DOCUMENTS = re.compile(f"[{_HARMFUL}]")
_BLANKS = re.compile(r"\r?\n|\t")
_SHORT = {"\r": "\\r", "\b": "\\b", "\0": "\\0"}


def harmful(text: str) -> str | None:
    """The first character that could do harm on a terminal, also a line break or tab; None where there is none."""
    found = None if text.isascii() and text.isprintable() else _IN_LINES.search(text)
    return found.group() if found else None


def one_line(text: str) -> str:
    """Text in one line: line breaks and tabs become blanks, other control characters the way Python writes them."""
    if text.isascii() and text.isprintable():
        return text
    return _IN_LINES.sub(_escaped, _BLANKS.sub(" ", text))


def block(text: str) -> str:
    """Text of several lines: line breaks and tabs stay."""
    return _IN_BLOCKS.sub(_escaped, text.replace("\r\n", "\n"))


def log_entry(text: str) -> str:
    """Text of several lines, as a traceback, of which none but the first can be taken for the beginning of an entry."""
    first, *more = text.splitlines() or [""]
    return "\n".join([one_line(first), *(f"    {one_line(line)}" for line in more)])


def json_text(text: str) -> str:
    """JSON in which each harmful character of a string is an escape: what is read from it is the same."""
    return _IN_DOCUMENTS.sub(lambda found: _json_escape(ord(found.group())), text)


def yaml_text(text: str) -> str:
    """The same for YAML; strings with `hidden` characters must stand in double quotes."""
    return _IN_DOCUMENTS.sub(_escaped, text)


def hidden(text: str) -> bool:
    """Whether text holds harmful characters other than those that JSON and YAML escape anyway."""
    return "\x7f" in text or (not text.isascii() and _IN_DOCUMENTS.search(text) is not None)


def cells(text: str) -> int:
    """Terminal columns that `text` takes: wide characters take two, those that join others none."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def clip(text: str, limit: int) -> str:
    """`text` in at most `limit` columns, with … where something was cut off."""
    if cells(text) <= limit:
        return text
    taken, room = 0, limit - 1
    for char in text:
        room -= _cells(char) if not char.isascii() else 1
        if room < 0:
            break
        taken += 1
    return text[:taken].rstrip() + "…"


def wrap(text: str, limit: int, *, whole_words: bool = False) -> list[str]:
    """`text` in lines of at most `limit` columns, broken at blanks, and inside words that are longer than a line.
    `whole_words`: not there, since somebody may copy them."""
    if cells(text) <= limit:
        return [text]
    lines: list[str] = []
    line, used = "", 0
    for word in text.split():
        size = cells(word)
        if line and used + 1 + size > limit:
            lines.append(line)
            line, used = "", 0
        while size > limit and not whole_words:
            fitting = _fitting(word, limit)
            lines.append(word[:fitting])
            word = word[fitting:]
            size = cells(word)
        line, used = (f"{line} {word}", used + 1 + size) if line else (word, size)
    return [*lines, line] if line or not lines else lines


def _fitting(word: str, limit: int) -> int:
    """How many characters of `word` fit, at least one."""
    used = 0
    for index, char in enumerate(word):
        used += _cells(char)
        if used > limit and index:
            return index
    return len(word)


def _cells(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _escaped(found: re.Match[str]) -> str:
    char = found.group()
    return _SHORT.get(char) or char.encode("unicode_escape").decode()


def _json_escape(number: int) -> str:
    """JSON knows four digits alone: what is beyond them is written as a pair."""
    if number < 0x10000:
        return f"\\u{number:04x}"
    number -= 0x10000
    return f"\\u{0xD800 + (number >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"
