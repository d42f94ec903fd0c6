"""What a terminal would be told, as lines of text with classes."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cumulus.server.http.ui.terminal_text import LONGEST, TerminalText


def shown(*pieces: bytes) -> tuple[list[Any], Any]:
    text, lines = TerminalText(), []
    for piece in pieces:
        lines += text.feed(piece)
    return [list(line) for line in lines], list(text.partial())


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (b"plain\n", [("", "plain")]),
        (b"\x1b[1;31mbad\x1b[0m ok\n", [("fg1 bold", "bad"), ("", " ok")]),
        (b"\x1b[38;5;9mx\x1b[39my\n", [("fg9", "x"), ("", "y")]),
        (b"\x1b[38;2;1;2;3mx\x1b[48;5;4my\n", [("", "x"), ("bg4", "y")]),
        (b"\x1b[97;104mx\n", [("fg15 bg12", "x")]),
        (b" 10%\r 50%\r100%\n", [("", "100%")]),
        (b"abcdef\rxy\r\n", [("", "xycdef")]),
        (b"ab\bc\n", [("", "ac")]),
        (b"\x1b]0;title\x07a\x1b[2J\x1b[10;20Hb\x1b(B\n", [("", "ab")]),
        (b"\x1bPq\x1b\\a\x07b\x00\n", [("", "a\\x07b\\0")]),
        ("\u202eevil\n".encode(), [("", "\\u202eevil")]),
        (b"a\tb\n", [("", "a    b")]),
        (b"\xff\n", [("", "\ufffd")]),
        (b"\x1b[999999;;;mx\n", [("", "x")]),
        (b"\n", []),
    ],
)  # fmt: skip
def test_a_line(given: bytes, line: list[tuple[str, str]]) -> None:
    assert shown(given) == ([line], [])


def test_a_colour_goes_on_in_the_next_line() -> None:
    assert shown(b"\x1b[32ma\nb\x1b[0m\n")[0] == [[("fg2", "a")], [("fg2", "b")]]


def test_what_comes_in_pieces_is_what_it_would_be_at_once() -> None:
    text = "\x1b[31mré\x1b[0m 1%\r2%\nnext \x1b[1".encode()
    whole = shown(text)
    assert shown(*(text[at : at + 1] for at in range(len(text)))) == whole
    assert whole == ([[("", "2% 1%")]], [("", "next ")])


@given(st.lists(st.binary(max_size=30), max_size=6))
def test_nothing_but_text_and_our_classes_comes_out(pieces: list[bytes]) -> None:
    lines, partial = shown(*pieces)
    for line in [*lines, partial]:
        for classes, text in line:
            assert not set(text) & set(map(chr, (*range(32), 127, 0x202E)))
            assert all(re.fullmatch("[fb]g[0-9]+|[a-z]+", part) for part in classes.split())


def test_a_line_that_never_ends_costs_little() -> None:
    text = TerminalText()
    for _ in range(20):
        assert text.feed(b"x" * 10_000) == []
    assert sum(len(piece) for _, piece in text.partial()) <= LONGEST


def test_a_bar_that_is_drawn_for_ever_is_its_end() -> None:
    bar = b"".join(b"\r%7d of 9000000" % number for number in range(20_000))
    assert shown(bar + b"\n") == ([[("", "  19999 of 9000000")]], [])
    assert shown(*(bar[at : at + 65_536] for at in range(0, len(bar), 65_536)))[1] == [("", "  19999 of 9000000")]
