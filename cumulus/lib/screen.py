"""What of a job's output a terminal gets.

kubectl and docker hand a terminal whatever a program wrote. But a log may be somebody else's, and a terminal obeys:
it can be told to rename itself, to fill the clipboard, to answer as if keys were pressed, to overwrite what is above.
So of control characters a terminal gets those that programs show progress and colour with: line breaks, carriage
return, backspace, tab, colours (SGR), erase in line. All others are shown as text. Standard library only.
"""

from __future__ import annotations

import codecs
import re

from cumulus.lib import printable

_OBEYED = re.compile(r"(\x1b\[[0-9;:]{0,40}m|\x1b\[[0-2]?K|[\n\r\b\t])")
_BEGUN = re.compile(r"\x1b(\[[0-9;:]{0,40})?\Z")
_RESET = "\x1b[0m"


class Screen:
    """Makes a stream of bytes harmless for a terminal, also where a character or sequence is cut by a chunk's end."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._held = ""
        self._coloured = False

    def feed(self, data: bytes) -> bytes:
        """What may be shown of all that was fed so far."""
        text = self._held + self._decoder.decode(data)
        begun = _BEGUN.search(text)
        self._held = begun.group() if begun else ""
        return self._shown(text[: len(text) - len(self._held)])

    def end(self) -> bytes:
        """What was held back. Whatever colours were set, the terminal has its own again."""
        rest = self._shown(self._held + self._decoder.decode(b"", final=True))
        return rest + (_RESET.encode() if self._coloured else b"")

    def _shown(self, text: str) -> bytes:
        parts = _OBEYED.split(text)
        self._coloured = self._coloured or any(part.endswith("m") for part in parts[1::2])
        parts[::2] = map(printable.one_line, parts[::2])
        return "".join(parts).encode()
