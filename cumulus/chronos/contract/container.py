"""What a container engine must know of `chronos-runtime`. That stands alone on a worker, so that the names are written
there."""

from cumulus.chronos.host_program import FILES, PRIVATE
from cumulus.chronos.host_program import VARIABLE as PROGRAM_VARIABLE
from cumulus.chronos.runtime import (
    HOST_MARK,
    HOST_PREFIX,
    INPUT_VARIABLE,
    KEPT,
    MOUNTS_VARIABLE,
    PROGRAMS,
    SLOT_VARIABLE,
    SUBMITTER_VARIABLE,
    TERMINAL_VARIABLE,
    UNCONFINED,
)

__all__ = [
    "FILES", "HOST_MARK", "HOST_PREFIX", "INPUT_VARIABLE", "KEPT", "MOUNTS_VARIABLE", "PRIVATE", "PROGRAMS",
    "PROGRAM_VARIABLE", "SLOT_VARIABLE", "SUBMITTER_VARIABLE", "TERMINAL_VARIABLE",
    "UNCONFINED",
]  # fmt: skip
