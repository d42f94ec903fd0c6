"""What a container engine must know of `chronos-runtime`. That is one file, which stands alone on a worker, so that the
names are written there."""

from cumulus.chronos.runtime import KEPT, MOUNTS_VARIABLE, SLOT_VARIABLE, SUBMITTER_VARIABLE, UNCONFINED

__all__ = ["KEPT", "MOUNTS_VARIABLE", "SLOT_VARIABLE", "SUBMITTER_VARIABLE", "UNCONFINED"]
