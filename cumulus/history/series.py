"""How much of a lease was used, sample by sample: two bytes for each, and never more than `MOST` of them. Pure.

A series that is full is halved: each two samples become one of twice the step. So a lease of an hour has a sample for
each minute, one of a month one for each two hours, and both fit into a kilobyte.
"""

from __future__ import annotations

from typing import NamedTuple

MOST = 512
UNKNOWN = 255
"""A sample of which nobody knew. The others are hundredths of what is leased."""


class Sample(NamedTuple):
    """Parts of what is leased; None where nobody knows."""

    used: float | None
    """Memory; more than 1 is over."""
    busy: float | None
    """Compute."""


NOTHING = Sample(None, None)


class Series(NamedTuple):
    first: int
    """Milliseconds since 1970: when the first sample's step begins."""
    step: int
    """Milliseconds."""
    samples: bytes = b""
    """Memory and compute in turn."""

    def having(self, moment: int, sample: Sample, every: int) -> Series:
        """With the sample, which stands for `every` milliseconds, in the step in which the moment is: a step that is
        longer than that has the mean. A moment before the last step changes nothing: the clock was set back."""
        series = self
        at = (moment - series.first) // series.step
        while at >= MOST:
            series = series._halved()
            at = (moment - series.first) // series.step
        count = len(series.samples) // 2
        made = bytes((_byte(sample.used), _byte(sample.busy)))
        if at < count - 1:
            return series
        if at == count - 1:
            passed = (moment - series.first) % series.step // every * every
            old = series.samples[-2:]
            made = bytes(_mixed(before, new, passed, every) for before, new in zip(old, made, strict=True))
            return series._replace(samples=series.samples[:-2] + made)
        gap = bytes((UNKNOWN, UNKNOWN)) * (at - count)
        return series._replace(samples=series.samples + gap + made)

    def _halved(self) -> Series:
        old = self.samples
        made = bytearray()
        for at in range(0, len(old), 4):
            pair = old[at : at + 4]
            made += bytes((_both(pair[0::2]), _both(pair[1::2])))
        return self._replace(step=self.step * 2, samples=bytes(made))

    @property
    def used(self) -> list[float | None]:
        return [_part(byte) for byte in self.samples[0::2]]

    @property
    def busy(self) -> list[float | None]:
        return [_part(byte) for byte in self.samples[1::2]]


def _byte(part: float | None) -> int:
    return UNKNOWN if part is None else max(0, min(UNKNOWN - 1, round(part * 100)))


def _part(byte: int) -> float | None:
    return None if byte == UNKNOWN else byte / 100


def _mixed(old: int, new: int, passed: int, every: int) -> int:
    """What stands for so long, and one more sample."""
    if UNKNOWN in (old, new):
        return old if new == UNKNOWN else new
    return round((old * passed + new * every) / (passed + every))


def _both(pair: bytes) -> int:
    known = [byte for byte in pair if byte != UNKNOWN]
    return round(sum(known) / len(known)) if known else UNKNOWN
