"""Exit codes by which a job says something. A module of its own, so that a supervisor loads nothing else."""

from __future__ import annotations

SAVED = 75
"""EX_TEMPFAIL of sysexits.h: a job with a checkpoint has saved it, and wants to go on in a new lease."""
