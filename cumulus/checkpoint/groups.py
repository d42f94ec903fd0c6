"""The ranks of a gang, and how they tell each other something. All have to ask the same, in the same order.

Alone        one process
FileGroup    several on one node, or with a file system that they share: through files below the L1 directory
TorchGroup   where torch.distributed is initialised
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import secrets
import sys
import time
from typing import Any, Callable, Protocol

from .layout import OPEN_NEW, CheckpointError, remove_tree
from .writing import make_place

DIRECTORY = ".gang"
PATIENCE = 600.0
"""How many seconds ranks wait for each other."""
_SHORTEST_WAIT = 0.0005
_LONGEST_WAIT = 0.02


class RanksApart(CheckpointError):
    """Ranks of a gang did not meet."""


class RankFailed(CheckpointError):
    """Another rank could not do its part."""


class Group(Protocol):
    """The ranks of a gang."""

    rank: int
    world: int

    def gather(self, value: Any) -> list[Any]:
        """What each rank gave, in the order of ranks, once all have. Values are those that JSON has. Raises
        `RanksApart`."""
        ...

    def second(self) -> Group:
        """The same ranks, for a thread of its own. All ranks have to call it at the same time."""
        ...


def agree(group: Group, act: Callable[[], Any]) -> list[Any]:
    """Do something on each rank, and hear what came of it everywhere. Raises this rank's own error, or `RankFailed`
    where it was another's."""
    document, failure = {}, None
    try:
        document["value"] = act()
    except Exception as error:
        document["error"] = str(error) or type(error).__name__
        failure = error
    heard = group.gather(document)
    if failure is not None:
        raise failure
    for rank, one in enumerate(heard):
        if "error" in one:
            raise RankFailed(f"rank {rank} failed: {one['error']}")
    return [one["value"] for one in heard]


class Alone:
    """One process is no gang."""

    rank = 0
    world = 1

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def second(self) -> Group:
        return self


class FileGroup:
    """Ranks that see the same directory. They meet when the first of them asks for something."""

    def __init__(self, path: str, rank: int, world: int, *, patience: float = PATIENCE) -> None:
        self.rank = rank
        self.world = world
        self._path = path
        self._directory = os.path.join(path, DIRECTORY)
        self._patience = patience
        self._session = ""
        self._thread = ""
        self._count = 0

    def gather(self, value: Any) -> list[Any]:
        if not self._session:
            self._session = self._meet()
        self._count += 1
        self._write(self._file(self._count, self.rank), value)
        found = self._wait_for([self._file(self._count, rank) for rank in range(self.world)])
        # Who wrote this round has read the one before.
        if self._count > 1:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._directory, self._file(self._count - 1, self.rank)))
        return found

    def second(self) -> Group:
        made = FileGroup(self._path, self.rank, self.world, patience=self._patience)
        self.gather(None)  # They have met.
        made._session, made._thread = self._session, f"{self._thread}second-"
        return made

    def _meet(self) -> str:
        """A name for what these processes tell each other, which no process of an earlier run has used."""
        make_place(self._path)
        make_place(self._directory)
        mine = secrets.token_hex(8)
        self._write(f"hello-{self.rank}", mine)
        return self._invite(mine) if self.rank == 0 else self._join(mine)

    def _invite(self, mine: str) -> str:
        others = [f"hello-{rank}" for rank in range(1, self.world)]
        while True:
            hellos = self._wait_for(others)
            session = secrets.token_hex(8)
            ready = [f"{session}-ready-{rank}" for rank in range(1, self.world)]
            self._write("welcome", [session, mine, *hellos])
            # A hello may be that of an earlier run: then its rank says another one soon.
            self._wait(lambda: self._all(ready) is not None or self._all(others) != hellos, ready)  # noqa: B023
            if self._all(ready) is not None:
                self._forget_others(session)
                self._write(f"{session}-go", True)
                return session

    def _join(self, mine: str) -> str:
        joined: list[str] = []

        def go() -> bool:
            welcome = self._read("welcome")
            if welcome is None or len(welcome) != self.world + 1 or welcome[self.rank + 1] != mine:
                return False
            if joined[-1:] != welcome[:1]:
                joined.append(welcome[0])
                self._write(f"{welcome[0]}-ready-{self.rank}", True)
            return self._read(f"{welcome[0]}-go") is not None

        self._wait(go, ["welcome"])
        return joined[-1]

    def _forget_others(self, session: str) -> None:
        for name in os.listdir(self._directory):
            if not name.startswith((session, "hello-", "welcome")):
                remove_tree(os.path.join(self._directory, name))

    def _file(self, count: int, rank: int) -> str:
        return f"{self._session}-{self._thread}{count}-{rank}"

    def _wait_for(self, names: list[str]) -> list[Any]:
        found: list[Any] = []

        def all_there() -> bool:
            values = self._all(names)
            found[:] = values or []
            return values is not None

        self._wait(all_there, names)
        return found

    def _wait(self, met: Callable[[], bool], names: list[str]) -> None:
        ends = time.monotonic() + self._patience
        pause = _SHORTEST_WAIT
        while not met():
            if time.monotonic() > ends:
                missing = ", ".join(name for name in names if self._read(name) is None)
                raise RanksApart(
                    f"rank {self.rank} of {self.world} waited {self._patience:g} s for other ranks in "
                    f"{self._directory} (missing: {missing}). Has one ended, or do they not share this directory?"
                )
            time.sleep(pause)
            pause = min(_LONGEST_WAIT, pause * 1.5)

    def _all(self, names: list[str]) -> list[Any] | None:
        """What is in the files, once all are there."""
        documents = []
        for name in names:
            document = self._read_document(name)
            if document is None:
                return None
            documents.append(document["value"])
        return documents

    def _read(self, name: str) -> Any:
        document = self._read_document(name)
        return None if document is None else document["value"]

    def _read_document(self, name: str) -> dict[str, Any] | None:
        try:
            descriptor = os.open(os.path.join(self._directory, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        with open(descriptor, encoding="ascii") as file:
            document: dict[str, Any] = json.load(file)
            return document

    def _write(self, name: str, value: Any) -> None:
        path = os.path.join(self._directory, name)
        temporary = f"{path}.{secrets.token_hex(4)}"
        descriptor = os.open(temporary, OPEN_NEW, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            json.dump({"value": value}, file)
        os.rename(temporary, path)


class TorchGroup:
    """The ranks of torch.distributed, over a group of its own on the CPU: training's collectives are not in its way."""

    def __init__(self) -> None:
        from torch import distributed

        self._distributed = distributed
        self.rank: int = distributed.get_rank()
        self.world: int = distributed.get_world_size()
        patience = datetime.timedelta(seconds=PATIENCE)
        self._group = distributed.new_group(backend="gloo", timeout=patience) if self.world > 1 else None

    def gather(self, value: Any) -> list[Any]:
        if self._group is None:
            return [value]
        found: list[Any] = [None] * self.world
        try:
            self._distributed.all_gather_object(found, value, group=self._group)
        except RuntimeError as error:
            raise RanksApart(f"rank {self.rank} of {self.world}: torch.distributed: {error}") from error
        return found

    def second(self) -> Group:
        return TorchGroup()


def torch_is_distributed() -> bool:
    """Whether this program has initialised torch.distributed; it is not imported for that."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and bool(distributed.is_available()) and bool(distributed.is_initialized())
