"""PyTorch: a training that goes on bit for bit where it was, and sharded models by torch.distributed.checkpoint (DCP).

from cumulus import checkpoint
from cumulus.checkpoint.adapters.pytorch import ResumableLoader, TrainingState

loader = ResumableLoader(dataset, batch_size=32, shuffle=True, seed=7)
training = TrainingState(model, optimizer, scheduler=scheduler, loader=loader)
step = training.restore()
while loader.epoch < epochs:
    for batch in loader:
        step += 1
        train(batch)
        if checkpoint.should_checkpoint():
            training.save(step)
            checkpoint.exit_if_ending()
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import distributed

from .. import api, states
from ..layout import Checkpoint, CheckpointError, rank_name


class TrainingState:
    """Everything from which a training goes on: the model, the optimizer, what else has a `state_dict` (scheduler,
    gradient scaler, loader, by names of your own), and the random states of Python, NumPy, and PyTorch on all devices.
    """

    def __init__(self, model: Any, optimizer: Any = None, *, replicated: bool = False, **others: Any) -> None:
        """`replicated`: all ranks of the gang have the same model and optimizer, as with DistributedDataParallel; those
        of rank 0 are saved. What else there is, each rank has for itself."""
        self._shared = {"model": model} if optimizer is None else {"model": model, "optimizer": optimizer}
        self._own = {name: other for name, other in others.items() if other is not None}
        self._replicated = replicated
        taken = self._own.keys() & {"model", "optimizer", "random", "step"}
        if taken:
            raise ValueError(f"{sorted(taken)[0]!r} is a name that TrainingState needs itself")

    def save(self, step: int, *, wait: bool = True) -> None:
        """Save after `step` steps, as `save_checkpoint` does."""
        state: dict[str, Any] = {"step": step, "random": random_states()}
        parts = self._own if self._replicated and _rank() > 0 else {**self._shared, **self._own}
        state.update({name: part.state_dict() for name, part in parts.items()})
        api.save_checkpoint(state, step=step, wait=wait)

    def restore(self) -> int:
        """Load the newest checkpoint into the model and all others, and return its step; 0 where there is none. Call it
        when they are on their devices."""
        found = api.latest()
        if found is None:
            return 0
        prefix = api.default().own_part(found)
        state = states.read(found, prefix)
        first = state
        if self._replicated and _rank() > 0:
            first = states.read(found, f"{rank_name(0)}/")
        for parts, saved in ((self._shared, first), (self._own, state)):
            for name, part in parts.items():
                if name not in saved:
                    raise CheckpointError(f"the checkpoint of step {found.step} has no {name!r}")
                part.load_state_dict(saved[name])
        set_random_states(state["random"])
        return int(state["step"])


class ResumableLoader:
    """A DataLoader that knows where it is, and goes on there, also in the middle of an epoch, without reading what came
    before.

    Its order follows from the seed and the epoch alone. It takes what DataLoader takes, but no sampler and no
    generator. In a gang each rank has each `world`-th sample.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
        **options: Any,
    ) -> None:
        self.epoch = 0
        self.batch = 0
        """How many batches of this epoch the loop was given."""
        self._dataset = dataset
        self._size = batch_size
        self._shuffle = shuffle
        self._seed = seed
        self._drop_last = drop_last
        self._rank = rank
        self._world = world
        self._options = options

    def __len__(self) -> int:
        """Batches of an epoch."""
        samples = len(range(self._rank, len(self._dataset), self._world))
        return samples // self._size if self._drop_last else -(-samples // self._size)

    def __iter__(self) -> Iterator[Any]:
        """The rest of this epoch. Once it is over, the next one begins."""
        self.epoch, self.batch = self._next()
        # A generator of its own: DataLoader would take a number from PyTorch's each time that it is begun.
        generator = torch.Generator().manual_seed(self._seed + self.epoch)
        loader = torch.utils.data.DataLoader(
            self._dataset, batch_sampler=self._batches()[self.batch :], generator=generator, **self._options
        )
        for batch in loader:
            self.batch += 1
            yield batch
        self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        epoch, batch = self._next()
        return {"epoch": epoch, "batch": batch, "samples": len(self._dataset), "seed": self._seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if (state["samples"], state["seed"]) != (len(self._dataset), self._seed):
            raise CheckpointError("the checkpoint is of another data set or seed: its position means nothing here")
        self.epoch, self.batch = state["epoch"], state["batch"]

    @property
    def sampler(self) -> ResumableLoader:
        """Where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Begin that epoch, or stay where it is."""
        if epoch != self.epoch:
            self.epoch, self.batch = epoch, 0

    def _next(self) -> tuple[int, int]:
        """The epoch and number of the next batch. Some loops count batches, and do not ask whether there is one more
        after the last."""
        return (self.epoch + 1, 0) if self.batch and self.batch >= len(self) else (self.epoch, self.batch)

    def _batches(self) -> list[list[int]]:
        count = len(self._dataset)
        if self._shuffle:
            generator = torch.Generator().manual_seed(self._seed + self.epoch)
            order = torch.randperm(count, generator=generator).tolist()
        else:
            order = list(range(count))
        mine = order[self._rank :: self._world]
        batches = [mine[at : at + self._size] for at in range(0, len(mine), self._size)]
        return batches[: len(self)]


def random_states() -> dict[str, Any]:
    """The states of all random generators, as tensors and plain values."""
    found: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        name, keys, *rest = numpy.random.get_state()
        found["numpy"] = (str(name), torch.from_numpy(keys.astype("int64")), *(value for value in rest))
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def set_random_states(found: dict[str, Any]) -> None:
    """Put the random generators where `random_states` found them; those of devices that are not here stay."""
    version, keys, gauss = found["python"]
    random.setstate((version, tuple(keys), gauss))
    torch.set_rng_state(found["torch"])
    if "numpy" in found:
        import numpy

        name, keys, *rest = found["numpy"]
        numpy.random.set_state((name, keys.numpy().astype("uint32"), *rest))
    if "cuda" in found and torch.cuda.is_available():
        for device, state in enumerate(found["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, device)


def save_sharded(state: dict[str, Any], *, step: int) -> None:
    """Save a state dict whose tensors are spread over the ranks (FSDP, tensor parallel), by DCP: each rank writes what
    it has. Raises what `checkpoint.saving` raises."""
    from torch.distributed import checkpoint as dcp

    with api.saving(step, shared=True) as directory:
        dcp.save(state, checkpoint_id=directory)


def load_sharded(state: dict[str, Any]) -> Checkpoint | None:
    """Load the newest checkpoint into the tensors of a state dict, also where there are more or fewer ranks than those
    that saved it; None where there is none. What is no tensor is put into the dict."""
    from torch.distributed import checkpoint as dcp

    found = api.latest()
    if found is not None:
        dcp.load(state, checkpoint_id=found.path)
    return found


def _rank() -> int:
    initialised = distributed.is_available() and distributed.is_initialized()
    return int(distributed.get_rank()) if initialised else api.default().settings.rank
