"""Quantities as people write them: 20Gi, 50%, 0.5, 1h30m. Standard library only; Chronos uses it alone.

Sources: Kubernetes' resource.Quantity for sizes, Go's time.ParseDuration for durations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache

_SUFFIXES = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60,
}  # fmt: skip
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3}|[A-Za-z]*)")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h|d)")
_UNIT_SECONDS = {
    "ns": Decimal("1e-9"), "us": Decimal("1e-6"), "µs": Decimal("1e-6"), "ms": Decimal("1e-3"),
    "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400),
}  # fmt: skip
_MAX_BYTES = 2**63 - 1
_MAX_SECONDS = 100 * 365 * 86400
# A plain number between 1 and this is surely a slip for a fraction or a unit, not a number of bytes.
_LEAST_PLAIN_BYTES = 2**20
# So that a share of a real device is never zero bytes.
_LEAST_FRACTION = Decimal("0.0001")


@dataclass(frozen=True)
class Share:
    """A part of a device: either `fraction` in (0, 1] or `size` in bytes, the other None."""

    fraction: Decimal | None = None
    size: int | None = None

    def of(self, total: int) -> int:
        """The share of `total` bytes, in bytes, rounded down. May exceed `total` when given as a size."""
        if self.size is not None:
            return self.size
        assert self.fraction is not None
        return int(self.fraction * total)


def parse_bytes(value: str | int | float) -> int:
    """A Kubernetes quantity (20Gi, 512M, 1e9, 1073741824) in whole bytes, rounded up.

    Raises ValueError with what would be right.
    """
    text = _text(value)
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{value!r} is not a quantity; write bytes as 20Gi, 512Mi or 1500M")
    number, suffix = match.groups()
    if suffix in _SUFFIXES:
        result = Decimal(number) * _SUFFIXES[suffix]
    elif suffix[-1].isdigit():
        result = Decimal(number) * Decimal(10) ** int(suffix[1:])
    else:
        raise ValueError(f"{value!r} has the unknown unit {suffix!r}; units are Ki Mi Gi Ti Pi Ei or k M G T P E")
    if not 0 <= result <= _MAX_BYTES:
        raise ValueError(f"{value!r} is out of range; it must be less than 8Ei")
    return int(result.to_integral_value(rounding="ROUND_CEILING"))


def format_bytes(size: int) -> str:
    """Bytes for people, exact where a binary unit divides it, else with one decimal: 20Gi, 1.5Gi, 700."""
    for unit in ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki"):
        scale = _SUFFIXES[unit]
        if size >= scale:
            return f"{size // scale}{unit}" if size % scale == 0 else f"{size / scale:.1f}{unit}"
    return str(size)


def bytes_in_words(size: int) -> str:
    """As `format_bytes`, for a sentence: a number without a unit says that it is bytes."""
    return format_bytes(size) if size >= 1024 else f"{size} bytes"


def parse_cpus(value: str | int | float) -> int:
    """A CPU quantity (2, 0.5, 500m) in thousandths of a core. Raises ValueError."""
    text = _text(value)
    try:
        millis = Decimal(text[:-1]) if text.endswith("m") else Decimal(text) * 1000
    except InvalidOperation:
        raise ValueError(f"{value!r} is not a number of CPUs; write 2, 0.5 or 500m") from None
    if not millis.is_finite() or not 1 <= millis <= 10**7:
        raise ValueError(f"{value!r} CPUs is out of range; write 2, 0.5 or 500m")
    return int(millis)


def parse_fraction(value: str | int | float) -> Decimal:
    """A fraction in (0, 1]: 0.5, "0.5" or "50%". Raises ValueError."""
    text = _text(value)
    try:
        fraction = Decimal(text[:-1]) / 100 if text.endswith("%") else Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{value!r} is not a fraction; write 0.5 or 50%") from None
    if not fraction.is_finite() or not 0 < fraction <= 1:
        raise ValueError(f"{value!r} is out of range; a fraction lies in (0, 1], or (0%, 100%]")
    return fraction


def parse_millis(value: str | int | float) -> int:
    """A share of compute in thousandths of a device, from 1 to 1000: 25% is 250. Raises ValueError."""
    millis = int(parse_fraction(value) * 1000)
    if millis < 1:
        raise ValueError(f"{value!r} is too small; the least share of compute is 0.1%")
    return millis


def parse_share(value: str | int | float) -> Share:
    """A share of memory: a fraction 0.5, a percentage 50% or a quantity 20Gi. Raises ValueError."""
    text = _text(value)
    if text.endswith("%"):
        return Share(fraction=_not_tiny(value, parse_fraction(text)))
    try:
        number = Decimal(text)
    except InvalidOperation:
        size = parse_bytes(text)
        if size < 1:
            raise ValueError(f"{value!r} is no memory; write 0.5, 50% or 20Gi") from None
        return Share(size=size)
    if not number.is_finite() or number <= 0 or 1 < number < _LEAST_PLAIN_BYTES:
        example = f"{text}Gi" if number.is_finite() and number > 1 else "20Gi"
        raise ValueError(
            f"{value!r} is out of range; a fraction lies in (0, 1], and bytes need a unit, as in {example}"
        )
    if number <= 1:
        return Share(fraction=_not_tiny(value, number))
    return Share(size=parse_bytes(text))


def parse_duration(value: str | int | float) -> float:
    """Seconds from a Go-style duration (90s, 1h30m, 2d) or a number of seconds; at least 0.

    Raises ValueError.
    """
    return _seconds_of(value) if type(value) is str else _seconds(value)


def _seconds(value: str | int | float) -> float:
    text = _text(value)
    try:
        seconds = Decimal(text)
    except InvalidOperation:
        parts = list(_DURATION_PART.finditer(text))
        if not parts or "".join(part.group() for part in parts) != text:
            raise ValueError(f"{value!r} is not a duration; write 90s, 1h30m or a number of seconds") from None
        seconds = sum((Decimal(p[1]) * _UNIT_SECONDS[p[2]] for p in parts), Decimal(0))
    if not seconds.is_finite() or not 0 <= seconds <= _MAX_SECONDS:
        raise ValueError(f"{value!r} is out of range; a duration is at least 0 and at most 100 years")
    return float(seconds)


_seconds_of = lru_cache(maxsize=1024)(_seconds)
"""For texts alone: 1, 1.0 and True are one key of a cache."""


def format_duration(seconds: float) -> str:
    """Seconds as Kubernetes shows ages, the two largest units: 1h30m, 2d3h, 45s, 0s."""
    if 0 < seconds < 1:
        return f"{round(seconds * 1000)}ms"
    left = int(seconds)
    parts = []
    for unit, scale in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, scale)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"


def same_duration(seconds: int) -> tuple[int, int]:
    """From which number of seconds to which, without the latter, `format_duration` says what it says for these."""
    minutes, hours, days = seconds // 60 % 60, seconds // 3600 % 24, seconds // 86400
    if days and hours:
        step = 3600
    elif (days or hours) and minutes:
        step = 60
    else:
        step = 1
    start = seconds - seconds % step
    return start, start + step


def _not_tiny(value: str | int | float, fraction: Decimal) -> Decimal:
    if fraction < _LEAST_FRACTION:
        raise ValueError(f"{value!r} is too small; the least share of memory is 0.01%")
    return fraction


def _text(value: str | int | float) -> str:
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a number")
    if not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is neither a number nor text")
    text = str(value).strip()
    # Decimal reads other scripts' digits, underscores and huge exponents; none belongs in a manifest.
    if (not text.isascii() and "µ" not in text) or len(text) > 40 or "_" in text:
        raise ValueError(f"{text[:40]!r} is not a quantity; write plain digits and a unit")
    return text
