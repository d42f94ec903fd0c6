"""A worker's Chronos over SSH: the one place that knows fabric. Controllers see it as `Leases`.

    RemoteLeases -> protocol (chronos_cli --json) -> Link (one connection a node, with deadlines) -> hostkeys

Nothing of this goes to the worker: there Chronos is standard library only. `install` carries it over.
"""

from cumulus.chronos.remote.address import Address
from cumulus.chronos.remote.hostkeys import HostKeyRefused, KnownHosts
from cumulus.chronos.remote.leases import RemoteLeases
from cumulus.chronos.remote.link import Link

__all__ = ["Address", "HostKeyRefused", "KnownHosts", "Link", "RemoteLeases"]
