"""Environment variables of a job that several parts of Cumulus name. A module of its own, so that a supervisor loads
nothing else."""

from __future__ import annotations

from cumulus.checkpoint import variables

WORKLOAD = "CUMULUS_WORKLOAD"
"""The workload's name: by it the node also finds processes that lost their supervisor."""
EXEC = "CUMULUS_EXEC"
"""Of what was started beside a job: another text for each program, by which what that has started is found too."""
LEASE_DEADLINE = variables.LEASE_DEADLINE
CHECKPOINT_PATH = variables.PATH
