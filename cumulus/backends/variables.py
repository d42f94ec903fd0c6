"""Environment variables of a job that more than one part of Cumulus names. Alone here, so that a supervisor loads no
more than that."""

from __future__ import annotations

WORKLOAD = "CUMULUS_WORKLOAD"
"""The workload's name: by it the node also finds processes that lost their supervisor."""
CHECKPOINT_PATH = "CUMULUS_CHECKPOINT_PATH"
