"""Exit codes with a meaning for Cumulus. Its own module, so that a supervisor loads nothing else."""

from __future__ import annotations

SAVED = 75
"""EX_TEMPFAIL of sysexits.h: a job with a checkpoint has saved it, and wants to go on in a new lease."""
