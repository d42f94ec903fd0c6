"""Quantities as people write them: tables, round trips, and nothing but ValueError for anything else."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cumulus.resources import quantity
from cumulus.resources.quantity import Share
from cumulus.resources.values import same_value

PARSERS = [
    quantity.parse_bytes, quantity.parse_cpus, quantity.parse_fraction, quantity.parse_millis, quantity.parse_share,
    quantity.parse_duration,
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("1", 1), (1024, 1024), ("1k", 1000), ("1Ki", 1024), ("20Gi", 20 * 2**30), ("1.5Gi", 3 * 2**29),
        ("512M", 512 * 10**6), ("1e9", 10**9), ("1E3", 1000), ("1.5e3", 1500), ("7E", 7 * 10**18), (".5Ki", 512),
        ("5.", 5), ("0.0000001Ki", 1), (" 1Gi ", 2**30), ("7.9Ei", 9108079886394091111), (1.5, 2),
    ],
)  # fmt: skip
def test_bytes(text: str | int, size: int) -> None:
    assert quantity.parse_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "Gi", "1 Gi", "1GB", "1gi", "-1", "+1", "1_000", "nan", "inf", "1e99", "9Ei", "0x10", "١", "1Gi1", True, None,
     [1], "1" * 41, "5EB", "5Eo", "1e", "1ee3", "%", "half"],
)  # fmt: skip
def test_no_bytes(text: Any) -> None:
    with pytest.raises(ValueError):
        quantity.parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90), ("1h30m", 5400), ("1d", 86400), ("0", 0), ("0s", 0), (90, 90), ("90", 90), (1.5, 1.5),
        ("1.5h", 5400), ("100ms", 0.1), ("1h0.5s", 3600.5), ("3us", 3e-6), ("3µs", 3e-6), ("7ns", 7e-9),
        ("1m1m", 120), ("1e3", 1000),
    ],
)  # fmt: skip
def test_durations(text: str | int | float, seconds: float) -> None:
    assert quantity.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "h", "1w", "1 h", "-1s", "-5", "1h 30m", "1:30", "inf", "nan", "101000d", "1H", False, None, {}, "1hs"]
)
def test_no_durations(text: Any) -> None:
    with pytest.raises(ValueError):
        quantity.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        (0.5, Share(fraction=Decimal("0.5"))), ("50%", Share(fraction=Decimal("0.5"))), (1, Share(fraction=Decimal(1))),
        ("100%", Share(fraction=Decimal(1))), ("20Gi", Share(size=20 * 2**30)), (2**30, Share(size=2**30)),
        ("0.0001", Share(fraction=Decimal("0.0001"))), ("1Mi", Share(size=2**20)), ("1e9", Share(size=10**9)),
    ],
)  # fmt: skip
def test_shares(text: str | int | float, share: Share) -> None:
    assert quantity.parse_share(text) == share


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (50, "bytes need a unit, as in 50Gi"), (2, "as in 2Gi"), (0, "a fraction lies in (0, 1]"),
        ("0Gi", "is no memory; write"), ("150%", "(0%, 100%]"), (-0.5, "out of range"),
        ("nan", "out of range"), ("inf", "as in 20Gi"),
        ("-inf", "as in 20Gi"),
        ("0.00001", "the least share of memory is 0.01%"), ("0.001%", "the least share of memory is 0.01%"),
        ("half", "is not a quantity"), (True, "true is not a number"), ("sNaN", "out of range"),
    ],
)  # fmt: skip
def test_no_shares(text: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        quantity.parse_share(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["8Ei", "9Ei", "8192Pi", "1e19", str(2**63)])
def test_a_bound_is_told_as_it_is(text: str) -> None:
    with pytest.raises(ValueError, match="out of range; it must be less than 8Ei"):
        quantity.parse_bytes(text)
    assert quantity.parse_bytes("7.9Ei") < quantity.parse_bytes(2**63 - 1) == 2**63 - 1


def test_the_share_of_a_device() -> None:
    assert quantity.parse_share("50%").of(81) == 40
    assert quantity.parse_share("1Gi").of(1) == 2**30


@pytest.mark.parametrize(("text", "millis"), [("25%", 250), (0.25, 250), (1, 1000), ("0.1%", 1), ("33.33%", 333)])
def test_compute(text: str | float, millis: int) -> None:
    assert quantity.parse_millis(text) == millis


@pytest.mark.parametrize("text", ["0", "0.05%", "101%", 2, "20Gi", None, "nan%"])
def test_no_compute(text: Any) -> None:
    with pytest.raises(ValueError):
        quantity.parse_millis(text)


@pytest.mark.parametrize(("text", "millis"), [("2", 2000), (0.5, 500), ("500m", 500), ("0.001", 1), (64, 64000)])
def test_cpus(text: str | float, millis: int) -> None:
    assert quantity.parse_cpus(text) == millis


@pytest.mark.parametrize("text", ["0", "0.5m", "-1", "10001", "many", "", "m", "nan", "infm", True, []])
def test_no_cpus(text: Any) -> None:
    with pytest.raises(ValueError):
        quantity.parse_cpus(text)


ANYTHING = (
    st.text() | st.integers() | st.floats() | st.booleans() | st.none() | st.lists(st.integers(), max_size=2)
    | st.text("0123456789.eE+-%KMGTPiumhsdnµ_ ", max_size=12)
    | st.sampled_from(["nan", "sNaN", "-Infinity", "nanm", "inf%", "1e999", "1e-999", "0e999"])
)  # fmt: skip


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
@given(value=ANYTHING)
@example(value="nan")
@example(value="9" * 40)
@settings(max_examples=300, deadline=None)
def test_nothing_but_value_error(parse: Callable[[Any], Any], value: Any) -> None:
    try:
        parse(value)
    except ValueError as error:
        message = str(error)
    else:
        return
    assert message
    assert "\n" not in message


@given(st.integers(0, 2**63 - 1))
def test_bytes_for_people_read_back_nearly(size: int) -> None:
    text = quantity.format_bytes(size)
    if text.endswith("Ei") and float(text[:-2]) >= 8:
        return
    back = quantity.parse_bytes(text)
    assert abs(back - size) <= 0.05 * size
    if "." not in text:
        assert back == size


@given(st.integers(0, 200), st.sampled_from(["", "Ki", "Mi", "Gi", "k", "M", "G"]))
def test_whole_quantities_survive_formatting(number: int, unit: str) -> None:
    size = quantity.parse_bytes(f"{number}{unit}")
    assert quantity.parse_bytes(str(size)) == size


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (700, "700"), (1024, "1Ki"), (20 * 2**30, "20Gi"), (3 * 2**29, "1.5Gi")]
)
def test_bytes_for_people(size: int, text: str) -> None:
    assert quantity.format_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (45, "45s"),
        (90, "1m30s"),
        (5400, "1h30m"),
        (86400, "1d"),
        (183845, "2d3h"),
        (3601, "1h1s"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert quantity.format_duration(seconds) == text


@given(st.integers(0, 10**9))
def test_durations_for_people_read_back_nearly(seconds: int) -> None:
    back = quantity.parse_duration(quantity.format_duration(seconds))
    assert back <= seconds
    assert seconds - back < 3600


@pytest.mark.parametrize(
    ("type", "old", "new", "same"),
    [
        ("duration", "1h", "60m", True), ("duration", "1h", "3600s", True), ("duration", "1h", "61m", False),
        ("share", "0.5", "50%", True), ("share", "0.5", "20Gi", False), ("bytes", "1Gi", "1024Mi", True),
        ("cpus", "1", "1000m", True), ("percentage", "25%", "0.25", True), ("string", "1h", "60m", False),
        ("string", "a", "a", True), ("integer", 1, 1, True), ("duration", None, "1h", False),
    ],
)  # fmt: skip
def test_values_that_mean_the_same(type: str, old: Any, new: Any, same: bool) -> None:
    assert same_value(type, old, new) is same


@given(
    st.integers(0, 10**7)
    | st.builds(lambda days, more: days * 86400 + more, st.integers(0, 3000), st.integers(0, 4000))
)
def test_a_duration_says_the_same_as_long_as_it_is_said_to(seconds: int) -> None:
    start, end = quantity.same_duration(seconds)
    assert start <= seconds < end
    assert {quantity.format_duration(each) for each in (start, seconds, end - 1)} == {quantity.format_duration(seconds)}
    assert quantity.format_duration(end) != quantity.format_duration(seconds)
    assert start == 0 or quantity.format_duration(start - 1) != quantity.format_duration(seconds)
