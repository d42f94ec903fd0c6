from __future__ import annotations

import pytest

from cumulus.resources.annotations import TERMINAL_SIZE, terminal_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("110x30", (110, 30)),
        ("1x65535", (1, 65535)),
        ("0x30", None),
        ("110x65536", None),
        ("110", None),
        ("x", None),
        ("-1x30", None),
        ("¹x30", None),
        ("9" * 5000 + "x30", None),
        ("", None),
    ],
)
def test_what_no_terminal_can_have_is_no_size(text: str, size: tuple[int, int] | None) -> None:
    assert terminal_size({TERMINAL_SIZE: text}) == size
    assert terminal_size({}) is None
