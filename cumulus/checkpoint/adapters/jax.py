"""JAX: pytrees of one process, and Orbax for several hosts.

from cumulus import checkpoint
from cumulus.checkpoint.adapters import jax as checkpoints

state, step = checkpoints.restore(state)
for step in range(step, steps):
    state = train_step(state)
    if checkpoint.should_checkpoint():
        checkpoints.save(state, step=step + 1)
        checkpoint.exit_if_ending()
"""

from __future__ import annotations

import os
from typing import Any

import jax

from .. import api

_DIRECTORY = "orbax"
_KEY = "jax.random.key"


def save(tree: Any, *, step: int, wait: bool = True) -> None:
    """Save a pytree of arrays that this process can see whole. It is copied from the devices first, so that arrays may
    be donated as soon as this returns, also with `wait=False`."""
    leaves = [_to_host(leaf) for leaf in jax.tree_util.tree_leaves(tree)]
    api.save_checkpoint({"step": step, "leaves": leaves}, step=step, wait=wait)


def restore(like: Any) -> tuple[Any, int]:
    """The newest checkpoint as a pytree such as `like`, each leaf where the one of `like` is, and its step; `like` and
    0 where there is none. Raises ValueError where the shapes are others."""
    found = api.load_checkpoint()
    if found is None:
        return like, 0
    leaves, structure = jax.tree_util.tree_flatten(like)
    if len(leaves) != len(found["leaves"]):
        raise ValueError(f"the checkpoint has {len(found['leaves'])} leaves, and the state has {len(leaves)}")
    placed = [_to_device(saved, leaf) for saved, leaf in zip(found["leaves"], leaves)]
    return jax.tree_util.tree_unflatten(structure, placed), int(found["step"])


def save_orbax(tree: Any, *, step: int) -> None:
    """Save a pytree by Orbax; in a gang, each host writes what it has."""
    import orbax.checkpoint as orbax

    with api.saving(step, shared=True) as directory, orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(os.path.join(directory, _DIRECTORY), tree)
        checkpointer.wait_until_finished()


def restore_orbax(like: Any) -> tuple[Any, int]:
    """The newest checkpoint of `save_orbax`, with the shapes and shardings of `like`, and its step; `like` and 0 where
    there is none."""
    import orbax.checkpoint as orbax

    found = api.latest()
    if found is None:
        return like, 0
    with orbax.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(os.path.join(found.path, _DIRECTORY), like), found.step


def _to_host(leaf: Any) -> Any:
    if _is_key(leaf):
        return {_KEY: str(jax.random.key_impl(leaf)), "data": jax.device_get(jax.random.key_data(leaf))}
    host = jax.device_get(leaf)
    # On a CPU, what is got may be the array's own memory.
    return host.copy() if hasattr(host, "copy") else host


def _to_device(saved: Any, like: Any) -> Any:
    if isinstance(saved, dict) and _KEY in saved:
        return jax.random.wrap_key_data(saved["data"], impl=saved[_KEY])
    if not isinstance(like, jax.Array):
        return saved
    if saved.shape != like.shape:
        raise ValueError(f"a leaf of the checkpoint has the shape {saved.shape}, and that of the state {like.shape}")
    return jax.device_put(saved, like.sharding)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
