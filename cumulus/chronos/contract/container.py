"""What a container engine must know of `chronos-runtime`. That is one file, which stands alone on a worker, so that the
names are written there."""

from cumulus.chronos.runtime import KEPT, SLOT_VARIABLE

__all__ = ["KEPT", "SLOT_VARIABLE"]
