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
from typing import Any, Callable, NamedTuple

from .digesting import DigestingFile
from .layout import Checkpoint, CheckpointError, File, opened_file

PICKLE = "state.pickle"
TORCH = "state.pt"

_PROTOCOL = 5


class NoState(CheckpointError):
    """A checkpoint that another program, or `saving`, has written."""


class Snapshot(NamedTuple):
    """A state that is ready to be written."""

    name: str
    write: Callable[[Any], None]
    """Writes it to an open file."""


def prepare(state: Any) -> Snapshot:
    """The state as it is, to be written at once."""
    torch = _torch()
    if torch is not None and _holds_tensors(state, torch.Tensor):
        return Snapshot(TORCH, lambda file: torch.save(state, file))
    return Snapshot(PICKLE, lambda file: _pickle(state, file))


def snapshot(state: Any) -> Snapshot:
    """A copy of the state in memory, to be written later. It needs as much memory as the state has, in RAM also for
    what lies on a GPU. Raises what pickling raises."""
    torch = _torch()
    if torch is not None and _holds_tensors(state, torch.Tensor):
        kept = _copied(state, torch, {})
        return Snapshot(TORCH, lambda file: torch.save(kept, file))
    buffer = io.BytesIO()
    _pickle(state, buffer)
    return Snapshot(PICKLE, lambda file: _write(file, buffer))


def write(snapshot: Snapshot, directory: str) -> File:
    """Write it into a directory, durably. Raises OSError, what pickling raises."""
    file = DigestingFile(os.path.join(directory, snapshot.name))
    try:
        snapshot.write(file)
    except BaseException:
        file.abandon()
        raise
    return file.close()


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


def _pickle(state: Any, file: Any) -> None:
    try:
        # Not to the file at once: what fails half-way must not leave half a pickle before the second try.
        pickle.Pickler(_Nowhere(), _PROTOCOL).dump(state)
    except (pickle.PicklingError, AttributeError, TypeError):
        try:
            import cloudpickle
        except ImportError:
            cloudpickle = None
        if cloudpickle is None:
            raise
        # A class or function that only this program has, as those of a notebook.
        cloudpickle.dump(state, file, protocol=_PROTOCOL)
    else:
        pickle.dump(state, file, protocol=_PROTOCOL)


class _Nowhere:
    def write(self, data: Any) -> int:
        return len(data)


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
