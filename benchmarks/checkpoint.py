"""A checkpoint of 1 GiB beside torch.save and fsync, and what a training loop pays for asking."""

from __future__ import annotations

import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy

from benchmarks.harness import LeftOut, Result, in_rounds, limit
from cumulus.checkpoint.checkpointer import Checkpointer
from cumulus.checkpoint.settings import Settings

SIZE = 2**30
PARTS = 16
ROUNDS = 5
CALLS = 1_000_000
MICROSECONDS = 1.0


def run() -> Iterator[Result]:
    # On a disk: the system's own temporary directory may be memory.
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR") or "/var/tmp") as directory:
        yield from _saves(Path(directory))
        yield _asking(Path(directory))


def _saves(directory: Path) -> Iterator[Result]:
    arrays = {f"layer-{number}": numpy.random.default_rng(number).bytes(SIZE // PARTS) for number in range(PARTS)}
    plain = {name: numpy.frombuffer(data, numpy.float32) for name, data in arrays.items()}
    # No goal: pickle alone may be faster than any sha256.
    yield _compared("a checkpoint of 1 GiB of NumPy arrays", directory, plain, pickle_durably, "pickle, fsync")
    try:
        import torch
    except ImportError:
        yield LeftOut("a checkpoint of 1 GiB of tensors", "PyTorch is not installed")
        return
    tensors = {name: torch.frombuffer(bytearray(data), dtype=torch.float32) for name, data in arrays.items()}
    peer = f"torch.save {torch.__version__}, fsync"
    yield _compared("a checkpoint of 1 GiB of tensors", directory, tensors, torch_durably, peer, at_most=1.1)


def _compared(
    what: str, directory: Path, state: Any, peer: Callable[[Any, Path], None], name: str, at_most: float | None = None
) -> Result:
    checkpointer = Checkpointer(Settings(path=str(directory / "l1"), keep=1))
    ours, theirs = [], []
    for turn in range(ROUNDS + 1):
        os.sync()
        began = time.perf_counter()
        checkpointer.save(state, step=turn)
        ours.append(time.perf_counter() - began)
        checkpointer.wait()
        os.sync()
        began = time.perf_counter()
        peer(state, directory / "peer")
        theirs.append(time.perf_counter() - began)
        (directory / "peer").unlink()
    # The first round warms both up.
    return in_rounds(what, ours[1:], theirs[1:], unit="s", peer_name=name, at_most=at_most)


def pickle_durably(state: Any, path: Path) -> None:
    with open(path, "wb") as file:
        pickle.dump(state, file, protocol=5)
        file.flush()
        os.fsync(file.fileno())


def torch_durably(state: Any, path: Path) -> None:
    import torch

    with open(path, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def _asking(directory: Path) -> Result:
    """In a job with a lease, a request file and `every`: all that is looked at."""
    deadline = directory / "deadline"
    deadline.write_text("1e9")
    checkpointer = Checkpointer(
        Settings(path=str(directory / "l1"), every=1e6, request=str(directory / "request"), deadline=str(deadline))
    )
    best = min(_calls(checkpointer.should_checkpoint) for _ in range(5))
    return limit("one call of should_checkpoint", best / CALLS * 1e6, MICROSECONDS, unit="µs")


def _calls(ask: Callable[[], bool]) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        ask()
    return time.perf_counter() - began
