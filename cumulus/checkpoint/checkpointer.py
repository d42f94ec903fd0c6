"""`Checkpointer`: one run's checkpoints, and when to make them. `cumulus.checkpoint` itself has one for the process."""

from __future__ import annotations

import contextlib
import errno
import math
import operator
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Callable, NoReturn

from . import layout, lease, save_times, states, writing
from .gang_save import GangSave, share
from .groups import Alone, FileGroup, Group, TorchGroup, agree, torch_is_distributed
from .layout import Checkpoint, CheckpointError, Damaged, File
from .settings import Settings
from .timing import WORDS, DueCause, Timing

EXIT_CODE = 75
"""EX_TEMPFAIL: the work is saved but not done; start it again in a new lease."""

LOOK = 0.1
"""Seconds between two looks at the files by which the node speaks."""


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""What a disk says that does not take what is written."""


class NoPlace(CheckpointError):
    """The job has no directory for checkpoints."""


class Checkpointer:
    """The checkpoints of one run. Use one from one thread."""

    def __init__(self, settings: Settings | None = None, *, now: Callable[[], float] = lease.now) -> None:
        self.settings = settings = Settings.from_environment() if settings is None else settings
        self._now = now
        self._path = None if settings.path is None else os.path.abspath(settings.path)
        self._lease = lease.LeaseEnd(settings.deadline, settings.expires_at, settings.accounts)
        times = [] if self._path is None else save_times.read(self._path)
        self._timing = Timing(now(), every=settings.every, grace=settings.grace, times=times)
        self._group: Group = Alone()
        self._background_group: Group | None = None
        self._background: _Background | None = None
        self._tidying: _Background | None = None
        self._request: tuple[int, int] | None = None
        self._known: Checkpoint | None = None
        """The newest that is known to be whole: it is not read again for that."""
        self._refused: set[int] = set()
        self._listens = False
        self._cause = DueCause.NONE
        self._look_at = -math.inf
        self._calls_left = 0
        self._calls = 0
        self._looked = math.nan
        self._called = math.nan

    # When

    def should_checkpoint(self) -> bool:
        """Whether to save now; see `cumulus.checkpoint.should_checkpoint`."""
        now = self._now()
        if now < self._look_at or self._calls_left > 0:
            self._called = now
            self._calls_left -= 1
            return False
        return self._look(now)

    def time_remaining(self) -> float:
        """Seconds until the lease ends, 0 once it has; infinity where there is none."""
        return max(0.0, self._lease.read() - self._now())

    def why(self) -> str:
        """Why `should_checkpoint` said yes; "" where it did not."""
        return WORDS[self._cause]

    def exit_if_ending(self) -> None:
        """End this run where it has to end; see `cumulus.checkpoint.exit_if_ending`."""
        self.wait()
        self._timing.lease_end = self._lease.read()
        cause = DueCause(max(self._current_group().gather(int(self._timing.ending()))))
        if cause is not DueCause.NONE:
            self._exit(cause)

    def _exit(self, cause: DueCause) -> NoReturn:
        step = "nothing" if self._known is None else f"step {self._known.step}"
        print(f"cumulus.checkpoint: {step} is saved, and {WORDS[cause]}: exit {EXIT_CODE}", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_CODE)

    def _look(self, now: float) -> bool:
        timing = self._timing
        if self._path is None:
            self._look_at = math.inf  # There is no place where one would be found again.
            return False
        self._listen()
        if now > self._called:
            timing.pace = max(now - self._called, 0.8 * timing.pace)
        self._called = now
        timing.lease_end = self._lease.read()
        self._notice_request(now)
        self._cause = timing.due(now)
        group = self._current_group()
        if group.world > 1:
            self._ask_all(group, now)
        elif self._cause is DueCause.NONE:
            self._look_at = min(now + LOOK, timing.next_by_clock())
        return self._cause is not DueCause.NONE

    def _ask_all(self, group: Group, now: float) -> None:
        """Let one rank's cause be that of all, so that they save the same step. They count calls: all ranks make the
        same ones."""
        pace = (now - self._looked) / self._calls if self._calls and now > self._looked else LOOK
        heard = group.gather([int(self._cause), pace])
        self._cause = DueCause(max(cause for cause, _ in heard))
        slowest = max(pace for _, pace in heard)
        self._looked = now
        self._calls = 1 if self._cause is not DueCause.NONE else max(1, min(10_000, int(LOOK / slowest)))
        self._calls_left = self._calls - 1

    def _listen(self) -> None:
        """Let the stop signal be a reason to save, where the program has no handler of its own. A second one ends
        it."""
        if self._listens:
            return
        self._listens = True
        main = threading.current_thread() is threading.main_thread()
        if not self.settings.job or not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return

        def stopped(number: int, frame: object) -> None:
            signal.signal(number, signal.SIG_DFL)
            self.stop()

        signal.signal(signal.SIGTERM, stopped)

    def stop(self) -> None:
        """Save soon and end: what the stop signal says. For programs that handle it themselves."""
        self._timing.stop_at = self._now()
        self._look_at = -math.inf

    def _notice_request(self, now: float) -> None:
        """Read whether the node asks for a checkpoint."""
        if self.settings.request is None:
            return
        try:
            status = os.stat(self.settings.request)
        except OSError:
            return
        request = status.st_ino, status.st_mtime_ns
        if request != self._request:
            self._request = request
            self._timing.request_at = now

    # Saving

    @contextlib.contextmanager
    def saving(self, step: int, *, shared: bool = False) -> Iterator[str]:
        """A directory for one checkpoint; see `cumulus.checkpoint.saving`."""
        self.wait()
        with self._saving(self._current_group(), step, {}, shared=shared) as directory:
            yield directory

    def save(self, state: Any, *, step: int, wait: bool = True) -> None:
        """Save a state; see `cumulus.checkpoint.save_checkpoint`."""
        self.wait()
        if wait:
            self._save(self._current_group(), states.prepare(state), step)
            return
        self._place()
        group, began = self._current_group(), self._begin()
        if self._background_group is None:
            self._background_group = group.second()
        background, snapshot = self._background_group, states.snapshot(state)
        self._timing.saving = began
        self._background = _Background(lambda: self._save(background, snapshot, step, began))

    def wait(self) -> None:
        """Wait for what runs beside the program. Raises what a save there raised."""
        self._wait_for_save()
        tidying, self._tidying = self._tidying, None
        if tidying is not None:
            tidying.join()

    def _wait_for_save(self) -> None:
        background, self._background = self._background, None
        if background is not None:
            try:
                background.join()
            finally:
                self._timing.saving = -math.inf

    def _save(self, group: Group, snapshot: states.StateSnapshot, step: int, began: float | None = None) -> None:
        known: dict[str, File] = {}
        with self._saving(group, step, known, began=began) as directory:
            known[snapshot.name] = states.write(snapshot, directory)

    @contextlib.contextmanager
    def _saving(
        self, group: Group, step: int, known: Mapping[str, File], *, began: float | None = None, shared: bool = False
    ) -> Iterator[str]:
        path = self._place()
        began = self._begin() if began is None else began
        with _disk_errors(path, step):
            save = GangSave(group, path, operator.index(step), shared=shared)
            try:
                yield save.directory
            except BaseException as error:
                save.void(error)
                raise
            facts = writing.ManifestFacts(group.world, self.settings.attempt, self.settings.token)
            manifest = save.finish(lambda: self._now() - began, facts, known)
        self._saved(Checkpoint(manifest.step, layout.directory(path, manifest.step), manifest), began)
        if group.rank == 0:
            # Beside the program: to delete a large checkpoint takes a while.
            refused = frozenset(self._refused)
            self._tidying = _Background(lambda: self._tidy(path, manifest.step, refused))

    def _begin(self) -> float:
        """The time at which a save begins. It answers what the node has asked until then."""
        now = self._now()
        self._notice_request(now)
        return now

    def _saved(self, checkpoint: Checkpoint, began: float) -> None:
        self._known = checkpoint
        self._refused.discard(checkpoint.step)
        self._timing.saved(began, checkpoint.manifest.seconds)
        self._called = math.nan  # The time of the save is not that of a step.
        self._calls = 0
        self._cause = DueCause.NONE
        self._look_at = -math.inf

    def _tidy(self, path: str, step: int, refused: frozenset[int]) -> None:
        """What a checkpoint does not need. It is whole, so that no error here is the program's."""
        save_times.write(path, self._timing.times)
        try:
            layout.prune(path, self.settings.keep, newest=step, refused=refused)
        except OSError as error:
            _warn(f"an older checkpoint could not be deleted: {error}")

    def _place(self) -> str:
        if self._path is None:
            raise NoPlace("this job has no place for checkpoints: give it a spec.checkpoint.path")
        return self._path

    # Finding

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; see `cumulus.checkpoint.latest`."""
        self.wait()
        path = self._path
        group = self._current_group()
        if path is None:
            return None
        steps = agree(group, lambda: layout.steps(path) if group.rank == 0 else [])[0]
        for step in steps:
            if self._known is not None and group.world == 1 and self._known.step == step:
                return self._known
            found, problem = self._verified(path, step, group)
            problems = [problem for problem in group.gather(problem) if problem]
            if found is not None and not problems:
                self._known = found
                return found
            if all(damaged for damaged, _ in problems):
                self._refused.add(step)
            if group.rank == 0:
                _warn(f"not used: {'; '.join(text for _, text in problems)}")
        return None

    def load(self) -> Any:
        """The state of the newest checkpoint; see `cumulus.checkpoint.load_checkpoint`."""
        checkpoint = self.latest()
        return None if checkpoint is None else states.read(checkpoint, self.own_part(checkpoint))

    def own_part(self, checkpoint: Checkpoint) -> str:
        """The directory of this rank within a checkpoint, as a prefix of paths: "" where one process wrote it. Raises
        `CheckpointError` where another number of ranks wrote it."""
        group = self._current_group()
        if checkpoint.manifest.world != group.world:
            raise CheckpointError(
                f"the checkpoint of step {checkpoint.step} is of {checkpoint.manifest.world} ranks, and there are "
                f"{group.world} now"
            )
        return "" if group.world == 1 else f"{layout.rank_name(group.rank)}/"

    def _verified(self, path: str, step: int, group: Group) -> tuple[Checkpoint | None, list[Any]]:
        """The checkpoint, if this rank's part is whole; else whether it is damaged, and what is wrong."""

        def mine(name: str) -> bool:
            return share(name, group.world) == group.rank

        try:
            return layout.verify(path, step, part=mine), []
        except Damaged as damaged:
            return None, [True, str(damaged)]
        except OSError as error:
            return None, [False, f"checkpoint of step {step}: {error}"]

    def _current_group(self) -> Group:
        """The ranks of this run. torch.distributed may be initialised later than the first look at checkpoints."""
        if isinstance(self._group, TorchGroup):
            return self._group
        if torch_is_distributed():
            self._group, self._background_group = TorchGroup(), None
        elif self.settings.world > 1 and self._path is not None and isinstance(self._group, Alone):
            self._group = FileGroup(self._path, self.settings.rank, self.settings.world)
        return self._group


@contextlib.contextmanager
def _disk_errors(path: str, step: int) -> Iterator[None]:
    """An error of the disk as one that says what was not saved, and where."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK or not _is_of_save(error.filename, path):
            raise
        told = f"{os.strerror(error.errno)}: step {step} is not saved, and what was saved before stays"
        raise OSError(error.errno, told, path) from error


def _is_of_save(name: object, path: str) -> bool:
    """Whether an error that names this file is of a save below `path`, and not of the program's own."""
    return name is None or name == layout.MANIFEST or (isinstance(name, str) and name.startswith(path + os.sep))


class _Background:
    """What runs in a thread of its own. Python waits for it before it exits."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._error: BaseException | None = None
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._work, name="checkpoint-save")
        try:
            self._thread.start()
        except RuntimeError:  # The interpreter ends: it waits for this thread, and begins no other.
            self._work()

    def join(self) -> None:
        if self._process != os.getpid():  # Of the process from which this one was forked.
            return
        if self._thread.ident is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            self._action()
        except BaseException as error:
            self._error = error
            _warn(f"failed: {error}")


def _warn(message: str) -> None:
    print(f"cumulus.checkpoint: {message}", file=sys.stderr, flush=True)
