"""What the end of a run says of tests that were left out."""

from __future__ import annotations

from tests.conftest import left_out


def test_of_a_test_that_was_run_with_some_parameters_the_others_are_named() -> None:
    slow = [
        "a.py::test_some[two]",
        "a.py::test_some[three, four]@group-1",
        "a.py::test_more[1]",
        "a.py::test_more[2]@group-1",
        "b.py::test_one",
    ]
    every = [*slow, "a.py::test_some[one]", "b.py::test_other"]
    assert left_out(slow, every) == [
        "a.py::test_more",
        "a.py::test_some: of its parameters two, three, four",
        "b.py::test_one",
    ]
