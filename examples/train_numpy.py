"""A training that survives the end of its lease, with NumPy alone. docs/checkpoints.md explains it."""

import time

import numpy

from cumulus import checkpoint

STEPS = 60

state = checkpoint.load_checkpoint()
if state is None:
    state = {"step": 0, "weights": numpy.zeros(8), "random": numpy.random.default_rng(7)}
print("starts after step", state["step"])

while state["step"] < STEPS:
    batch = state["random"].normal(size=(64, 8))
    error = batch @ state["weights"] - batch.sum(axis=1)
    state["weights"] -= 0.1 * batch.T @ error / len(batch)
    state["step"] += 1
    time.sleep(0.1)  # A step of yours takes longer than this one.

    if checkpoint.should_checkpoint():
        checkpoint.save_checkpoint(state, step=state["step"])
        checkpoint.exit_if_ending()

print("done:", state["weights"].sum())
