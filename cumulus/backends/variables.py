"""Environment variables of a job that several parts of Cumulus name. A module of its own, so that a supervisor loads
nothing else."""

from __future__ import annotations

from cumulus.checkpoint import variables
from cumulus.lib.execution import MARK

WORKLOAD = "CUMULUS_WORKLOAD"
"""The workload's name: by it the node also finds processes that lost their supervisor."""
EXEC = MARK
LEASE_DEADLINE = variables.LEASE_DEADLINE
CHECKPOINT_PATH = variables.PATH
