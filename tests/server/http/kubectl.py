"""Runs kubectl, unmodified, against a server."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.waiting import PATIENCE

KUBECTL = shutil.which("kubectl")
MISSING = "THE SESSIONS OF KUBECTL ARE LEFT OUT: it is not installed"


class Kubectl:
    """Runs kubectl against a server. `given` is its standard input; `variables` come into its environment."""

    def __init__(self, server: str, home: Path) -> None:
        self._command = [KUBECTL or "", "--server", server, f"--cache-dir={home}/cache"]
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(home)}

    def __call__(self, *words: str, given: str = "", **variables: str) -> str:
        """What it prints."""
        finished = self._run(words, given, variables)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    def fails(self, *words: str, given: str = "") -> str:
        """What it says is wrong."""
        finished = self._run(words, given, {})
        assert finished.returncode != 0, finished.stdout
        return finished.stderr

    def says(self, *words: str) -> str:
        """What it prints, however it ends: `auth can-i` ends with 1 where it says no."""
        return self._run(words, "", {}).stdout

    def fails_with(self, code: int, *words: str, given: str = "") -> str:
        """What it prints all the same."""
        finished = self._run(words, given, {})
        assert finished.returncode == code, finished
        return finished.stdout

    @contextmanager
    def following(self, *words: str) -> Iterator[IO[str]]:
        """What it prints as it goes on, until the block ends."""
        with subprocess.Popen(
            [*self._command, *words], stdout=subprocess.PIPE, text=True, env=self._environment
        ) as process:
            assert process.stdout is not None
            try:
                yield process.stdout
            finally:
                process.terminate()

    def warns(self, *words: str, given: str = "") -> tuple[str, str]:
        """What it prints, and what it says beside it."""
        finished = self._run(words, given, {})
        assert finished.returncode == 0, finished.stderr
        return finished.stdout, finished.stderr

    def _run(self, words: tuple[str, ...], given: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *words], input=given, capture_output=True, text=True, timeout=PATIENCE,
            env={**self._environment, **variables},
        )  # fmt: skip
