"""Properties search anew in each run, for a bounded time, and a failure comes again from the line that is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PROPERTIES = """
import itertools, time
from hypothesis import given, settings, strategies as st
calls = itertools.count()

@given(st.integers(0, 10**12))
def test_fails(x):
    print("tried", x)
    assert next(calls) < 20

@settings(max_examples=10**6)
@given(st.integers())
def test_is_long(x):
    time.sleep(0.01)
"""


def searched(directory: Path, *options: str, code: int = 1, **environment: str) -> tuple[str, list[str]]:
    """What pytest printed, and the examples that were tried, in order."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-q", "-n", "0", *options, str(directory)],
        env={**os.environ, "CI": "true", **environment}, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, re.findall(r"tried (\d+)", done.stdout)[:20]


def test_a_run_has_a_seed_of_its_own_which_brings_its_examples_back_and_ends_in_time(tmp_path: Path) -> None:
    (tmp_path / "test_p.py").write_text(PROPERTIES)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    searched(tmp_path, "-k", "long", code=0, PROPERTY_SECONDS="0.3")
    # With the whole time: on a busy machine the example that fails may not be reached in less.
    printed, first = searched(tmp_path, "-k", "fails")
    _, other = searched(tmp_path, "-k", "fails")
    assert first != other, "the same examples in each run, as CI had them"
    again = re.search(r"come again with: PROPERTY_SECONDS=600 python -m pytest (--hypothesis-seed=\d+) TEST", printed)
    assert again is not None, printed
    assert searched(tmp_path, "-k", "fails", again[1])[1] == first
