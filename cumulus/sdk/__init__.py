"""Calls Python functions on leased shares of GPUs.

    from cumulus.sdk import CumulusClient

    client = CumulusClient()
    print(client.run(train, dataset, gpu_memory=0.5, duration="1h"))

It stands on the client's side alone: no server, service or store. gRPC and cloudpickle are loaded with the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cumulus.sdk.errors import CallError as CallError
from cumulus.sdk.errors import Cancelled as Cancelled
from cumulus.sdk.errors import Crashed as Crashed
from cumulus.sdk.errors import DeadlineExceeded as DeadlineExceeded
from cumulus.sdk.errors import LeaseExpired as LeaseExpired
from cumulus.sdk.errors import NodeLost as NodeLost
from cumulus.sdk.errors import NotPicklable as NotPicklable
from cumulus.sdk.errors import NotStarted as NotStarted
from cumulus.sdk.errors import OutOfMemory as OutOfMemory
from cumulus.sdk.errors import RemoteError as RemoteError
from cumulus.sdk.errors import SourceTooLarge as SourceTooLarge
from cumulus.sdk.errors import Untrusted as Untrusted

if TYPE_CHECKING:
    from cumulus.sdk.aio import AsyncCumulusClient as AsyncCumulusClient
    from cumulus.sdk.call import Call as Call
    from cumulus.sdk.client import CumulusClient as CumulusClient
    from cumulus.sdk.options import CallOptions as CallOptions
    from cumulus.sdk.remote_function import RemoteFunction as RemoteFunction
    from cumulus.sdk.remote_function import gpu as gpu
    from cumulus.sdk.remote_function import remote as remote
    from cumulus.sdk.session import Session as Session

_HOMES = {
    "AsyncCumulusClient": "aio", "Call": "call", "CallOptions": "options", "CumulusClient": "client",
    "RemoteFunction": "remote_function", "Session": "session", "gpu": "remote_function", "remote": "remote_function",
}  # fmt: skip


__all__ = [
    "AsyncCumulusClient", "Call", "CallError", "CallOptions", "Cancelled", "Crashed", "CumulusClient",
    "DeadlineExceeded", "LeaseExpired", "NodeLost", "NotPicklable", "NotStarted", "OutOfMemory", "RemoteError",
    "RemoteFunction", "Session", "SourceTooLarge", "Untrusted", "gpu", "remote",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Loads what is asked for, so that the import takes no time."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
