"""What a training loop calls: the checkpoints of this process, as its environment says. See docs/checkpoints.md."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from .checkpointer import Checkpointer
from .layout import Checkpoint
from .settings import Settings

_default: Checkpointer | None = None


def default() -> Checkpointer:
    """The `Checkpointer` of this process. The environment is read at the first call."""
    global _default
    if _default is None:
        _default = Checkpointer(Settings.from_environment())
    return _default


def use(checkpointer: Checkpointer) -> None:
    """Let the functions here, and adapters, use this one: `use(Checkpointer(Settings(path="/scratch/run-7")))`."""
    global _default
    _default = checkpointer


def should_checkpoint() -> bool:
    """Whether to save now. Ask after each step; a call takes about a microsecond.

        if checkpoint.should_checkpoint():
            checkpoint.save_checkpoint(state, step=step)
            checkpoint.exit_if_ending()

    It says yes until a save begins: when the lease's remaining time falls to what a save needs (a high percentile of
    the measured times, plus a margin of a second or a fifth; the whole grace period until one was measured), when
    `spec.checkpoint.every` has passed since the last one, when the node asks (preemption, drain, suspend), and after
    SIGTERM. In a Cumulus job without a handler for SIGTERM of its own, the first call from the main thread installs
    one, so that the signal no longer ends the program; a second signal does.

    All ranks of a gang get the same answer if each asks once a step. Outside of Cumulus the answer is no.
    """
    return default().should_checkpoint()


def time_remaining() -> float:
    """Seconds until the lease ends, 0.0 once it has ended; infinity outside of a lease."""
    return default().time_remaining()


def saving(step: int, *, shared: bool = False) -> AbstractContextManager[str]:
    """A new, empty directory for the checkpoint of `step`; what is in it when the block ends becomes the checkpoint.

        with checkpoint.saving(step) as directory:
            model.save_pretrained(directory)

    It is whole and durable when the block has ended, or not there: where the block raises, the machine fails or the
    disk is full, the checkpoint before stays the newest. Once it is whole, all but the newest `spec.checkpoint.keep`
    are deleted.

    In a gang all ranks call it with the same step, and each gets a directory of its own; with `shared`, all get the
    same one, for libraries that give the files of each rank names of their own. If one rank fails, all raise `Voided`.

    Raises OSError, `CheckpointError` (`NoPlace` in a job without spec.checkpoint.path, `Voided`, `UnsafePlace`,
    `Damaged` where the directory holds a link), ValueError for a step outside 0 to 999999999999.
    """
    return default().saving(step, shared=shared)


def save_checkpoint(state: Any, *, step: int, wait: bool = True) -> None:
    """Save any object that can be pickled as the checkpoint of `step`; `load_checkpoint` gives it back.

    PyTorch's tensors, in dicts, lists and tuples, are saved by torch.save. It returns when the checkpoint is whole and
    durable. With `wait=False` it returns when the state is copied into memory (RAM, also for what is on a GPU): a
    thread writes it, the program's exit waits for that, and an error is raised by the next call of anything here that
    saves or reads. Raises what `saving` and pickling raise.
    """
    default().save(state, step=step, wait=wait)


def load_checkpoint() -> Any:
    """The state of the newest whole checkpoint; None where there is none.

        state = checkpoint.load_checkpoint() or {"step": 0, "weights": initial()}

    Every byte is verified first. A damaged checkpoint is named on standard error and the one before is used. Tensors
    are on the CPU; `load_state_dict` copies them to where the model is. Only files of this process' user are unpickled.

    Raises `NoState` where `saving` wrote it (see `latest`), OSError, what unpickling raises.
    """
    return default().load()


def latest() -> Checkpoint | None:
    """The newest whole checkpoint: its `step`, its directory `path` and its `manifest`; None where there is none. In a
    gang, rank n finds its files in `rank-n` below the path. Raises OSError."""
    return default().latest()


def exit_if_ending() -> None:
    """Exit with code 75, "start me again in a new lease", if the last save was made because this run has to end: its
    lease ends, the node asked, or SIGTERM came. Otherwise return, as after a save because `every` has passed.

    Waits for a save that runs beside the program. Raises SystemExit, and what that save raised. All ranks of a gang
    call it.
    """
    default().exit_if_ending()


def wait() -> None:
    """Wait for the save of `save_checkpoint(…, wait=False)`. Raises what it raised."""
    default().wait()
