from __future__ import annotations

import pytest

from cumulus.lib.suggest import nearest


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("jbos", ["nodes", "jobs"], ["jobs"]),
        ("phse", ["phase", "pages"], ["phase"]),
        ("working_dir", ["workingDir"], ["workingDir"]),
        ("priorityClassName", ["priority"], ["priority"]),
        ("deletes", ["delete"], ["delete"]),
        ("Runing", ["Running", "Pending"], ["Running"]),
        # What merely has letters in common is not meant.
        ("create", ["secret", "restore"], []),
        ("secrets", ["events"], []),
        ("pod", ["job", "node"], []),
        ("ns", ["no"], []),
        ("", ["jobs"], []),
        ("x" * 10_000, ["xxxx"], ["xxxx"]),
    ],
)
def test_what_was_meant(word: str, known: list[str], meant: list[str]) -> None:
    assert nearest(word, known) == meant


def test_the_nearest_comes_first() -> None:
    assert nearest("memori", ["memoryBytes", "memory", "memo"], most=3) == ["memory", "memo"]
