"""What exit codes of a job mean beside 0. Alone here, so that a supervisor loads no more than that."""

from __future__ import annotations

SAVED = 75
"""EX_TEMPFAIL of sysexits.h: a job with a checkpoint has saved it, and wants to go on in a new lease."""
