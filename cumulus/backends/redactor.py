"""Keeps the values of secrets out of logs and messages. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence


class Redactor:
    """Replaces secret values in a stream of bytes, also where a value is cut by the end of a chunk.

    Guards against the slip of printing an environment, not against a program that encodes its secrets.
    """

    MARK = b"[secret]"
    SHORTEST = 4
    """Shorter values are left alone: they would be found everywhere."""

    def __init__(self, values: Sequence[str]) -> None:
        encoded = {v.encode("utf-8", "surrogateescape") for v in values}
        self._values = sorted((v for v in encoded if len(v) >= self.SHORTEST), key=len, reverse=True)
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What may be written of all that was fed so far."""
        if not self._values:
            return data
        data = self._held + data
        for value in self._values:
            data = data.replace(value, self.MARK)
        hold = max(_overlap(data, value) for value in self._values)
        self._held = data[len(data) - hold :]
        return data[: len(data) - hold]

    def text(self, text: str) -> str:
        """A whole text, such as a message about the job."""
        return (self.feed(text.encode("utf-8", "surrogateescape")) + self.flush()).decode("utf-8", "surrogateescape")

    @property
    def holding(self) -> bool:
        """Whether something is held back."""
        return bool(self._held)

    def flush(self) -> bytes:
        """What was held back: the stream paused or ended."""
        held, self._held = self._held, b""
        return held


def _overlap(data: bytes, value: bytes) -> int:
    """Length of the longest end of `data` that begins `value` without being all of it."""
    for length in range(min(len(value) - 1, len(data)), 0, -1):
        if data.endswith(value[:length]):
            return length
    return 0
