"""A state as a file: any object by pickle; what holds PyTorch's tensors by `torch.save`.

    snapshot(state)  -> a copy that later changes do not reach
    write(state, directory) -> the file, durable, with its digest
    read(checkpoint) -> the state

Only files of this process' own user are unpickled: `layout` refuses others.
"""

from __future__ import annotations

import copy
import io
import os
import pickle
import sys
from typing import Any, Callable, NamedTuple, TypeVar

from .digesting import DigestingFile
from .layout import Checkpoint, CheckpointError, File, opened_file

PICKLE = "state.pickle"
TORCH = "state.pt"

_PROTOCOL = 5
F = TypeVar("F")


class NoState(CheckpointError):
    """A checkpoint that another program, or `saving`, has written."""


class StateSnapshot(NamedTuple):
    """A state that is ready to be written."""

    name: str
    write: Callable[[Any], None]
    """Writes it to an open file. Raises what pickling raises."""
    otherwise: Callable[[Any], None] | None = None
    """Writes it where `write` could not."""


def prepare(state: Any) -> StateSnapshot:
    """The state as it is, to be written at once."""
    torch = _torch()
    if torch is not None and _holds_tensors(state, torch.Tensor):
        return StateSnapshot(TORCH, lambda file: torch.save(state, file))
    return _pickled(state)


def snapshot(state: Any) -> StateSnapshot:
    """A copy of the state in memory, to be written later. It needs as much memory as the state has, in RAM also for
    what lies on a GPU. Raises what pickling raises."""
    torch = _torch()
    if torch is not None and _holds_tensors(state, torch.Tensor):
        kept = _copied(state, torch, {})
        return StateSnapshot(TORCH, lambda file: torch.save(kept, file))
    buffer = _attempt(_pickled(state), io.BytesIO, lambda buffer: None)
    return StateSnapshot(PICKLE, lambda file: _write(file, buffer))


def write(snapshot: StateSnapshot, directory: str) -> File:
    """Write it into a directory, durably. Raises OSError, what pickling raises."""
    path = os.path.join(directory, snapshot.name)

    def drop(file: DigestingFile) -> None:
        file.abandon()
        os.unlink(path)

    return _attempt(snapshot, lambda: DigestingFile(path), drop).close()


def _attempt(snapshot: StateSnapshot, make: Callable[[], F], drop: Callable[[F], None]) -> F:
    """A file in which the snapshot is written, by its other way where the first fails."""
    file = make()
    try:
        snapshot.write(file)
        return file
    except (pickle.PicklingError, AttributeError, TypeError):
        drop(file)
        if snapshot.otherwise is None:
            raise
        failed = sys.exc_info()[1]
    except BaseException:
        drop(file)
        raise
    file = make()
    try:
        snapshot.otherwise(file)
    except BaseException as error:
        drop(file)
        raise error from failed
    return file


def _pickled(state: Any) -> StateSnapshot:
    try:
        import cloudpickle
    except ImportError:
        cloudpickle = None
    return StateSnapshot(
        PICKLE,
        lambda file: pickle.dump(state, file, protocol=_PROTOCOL),
        # For a class or function that only this program has, as those of a notebook.
        None if cloudpickle is None else lambda file: cloudpickle.dump(state, file, protocol=_PROTOCOL),
    )


def read(checkpoint: Checkpoint, prefix: str = "") -> Any:
    """The state of a checkpoint; tensors are on the CPU. Raises `NoState`, `Damaged`, OSError, what unpickling
    raises."""
    names = {file.path for file in checkpoint.manifest.files}
    for name, load in ((TORCH, _read_torch), (PICKLE, pickle.load)):
        if prefix + name in names:
            with opened_file(checkpoint, prefix + name) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
                return load(file)
    raise NoState(
        f"the checkpoint of step {checkpoint.step} was not written by save_checkpoint: read it from the directory that "
        f"latest() gives, {checkpoint.path}"
    )


def _torch() -> Any:
    """PyTorch, if the program uses it."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "Tensor") else None


def _read_torch(file: Any) -> Any:
    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # Something beside tensors and plain data, such as NumPy's random state. The file is this user's own.
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=False)


def _holds_tensors(state: Any, kind: type) -> bool:
    if isinstance(state, kind):
        return True
    if isinstance(state, dict):
        return any(_holds_tensors(value, kind) for value in state.values())
    return isinstance(state, (list, tuple)) and any(_holds_tensors(value, kind) for value in state)


def _write(file: Any, buffer: io.BytesIO) -> None:
    file.write(buffer.getbuffer())


def _copied(value: Any, torch: Any, seen: dict[int, Any]) -> Any:
    """A copy in which tensors that share memory still share it."""
    if isinstance(value, torch.Tensor):
        return _copied_tensor(value, torch, seen)
    if type(value) is dict:
        return {key: _copied(item, torch, seen) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)([_copied(item, torch, seen) for item in value])
    if isinstance(value, dict):
        # Such as the OrderedDict of a model's state, with what is attached to it.
        made = copy.copy(value)
        for key, item in value.items():
            made[key] = _copied(item, torch, seen)
        return made
    return copy.deepcopy(value)


def _copied_tensor(tensor: Any, torch: Any, seen: dict[int, Any]) -> Any:
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
    if not plain or tensor.is_quantized:
        return copy.deepcopy(tensor.detach())
    storage = tensor.untyped_storage()
    pointer = storage.data_ptr()
    if pointer not in seen:
        seen[pointer] = torch.UntypedStorage(storage.nbytes()).copy_(storage)
    made = torch.empty(0, dtype=tensor.dtype)
    made.set_(seen[pointer], tensor.storage_offset(), tensor.shape, tensor.stride())
    return torch.nn.Parameter(made, tensor.requires_grad) if type(tensor) is torch.nn.Parameter else made
