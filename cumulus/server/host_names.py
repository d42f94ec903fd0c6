"""By which names and addresses clients call this machine."""

from __future__ import annotations

import socket
from collections.abc import Collection, Sequence

from cumulus.lib import addresses
from cumulus.lib.host import object_name

_EVERY_ADDRESS = ("0.0.0.0", "::")


def names(hosts: Collection[str], more: Collection[str]) -> set[str]:
    """Those that a certificate is for. `hosts`: where servers listen; `more`: what the settings name beside them."""
    own = {each for host in hosts for each in (addresses.local() if host in _EVERY_ADDRESS else {host})}
    return {"localhost", "127.0.0.1", "::1", object_name(socket.gethostname()), *own, *more}


def called(host: str, given: Sequence[str]) -> str:
    """What clients call a server by that listens at `host`. `given`: what the settings name."""
    if given:
        return given[0]
    return (addresses.primary() or "127.0.0.1") if host in _EVERY_ADDRESS else host
