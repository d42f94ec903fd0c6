"""Which host keys are trusted: those in known_hosts files, and no others.

fabric's Connection trusts any key it meets first (paramiko's AutoAddPolicy): `trust` takes that away from it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paramiko

from cumulus.errors import CumulusError, NodeUnreachable
from cumulus.nodes.address import SSH_PORT, WorkerHost
from cumulus.nodes.sockets import open_socket

SYSTEM_FILES = (Path("~/.ssh/known_hosts"), Path("/etc/ssh/ssh_known_hosts"))


class HostKeyRefused(NodeUnreachable):
    """The node's host key is not known, or not the one that is known. `hint` is the command that would change it."""


class KnownHosts:
    """The keys in `own` (where new ones are written) and in the user's and the machine's known_hosts.

    The first file that knows a host decides. Files are read anew each time: they are small, and people edit them.
    """

    def __init__(self, own: Path, others: Sequence[Path] = SYSTEM_FILES) -> None:
        self.own = own
        self._files = (own, *(path.expanduser() for path in others))

    def trust(self, client: paramiko.SSHClient, address: WorkerHost) -> None:
        """Make `client` accept the known keys of `address` alone. Raises `HostKeyRefused` where none is known."""
        file, keys = self._find(address)
        if file is None:
            raise self.unknown(address)
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        trusted = client.get_host_keys()
        for key in keys:
            trusted.add(address.known_as, key.get_name(), key)

    def knows(self, address: WorkerHost, key: paramiko.PKey) -> bool:
        """Whether `key` is known. Raises `HostKeyRefused` where other keys are."""
        file, keys = self._find(address)
        if file is None:
            return False
        if key not in keys:
            raise self.changed(address, key)
        return True

    def add(self, address: WorkerHost, key: paramiko.PKey) -> None:
        """Write the key into the own file."""
        line = f"{address.known_as} {key.get_name()} {key.get_base64()}\n"
        try:
            self.own.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.own, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w") as file:
                file.write(line)
                file.flush()
                os.fsync(descriptor)
        except OSError as error:
            raise CumulusError(f"{self.own} cannot be written: {error.strerror}") from None

    def unknown(self, address: WorkerHost) -> HostKeyRefused:
        port = "" if address.port == SSH_PORT else f"-p {address.port} "
        return HostKeyRefused(
            f"the host key of {address.known_as} is not known",
            hint=f"trust it with: ssh-keyscan {port}{address.host} >> {shlex.quote(str(self.own))}",
        )

    def changed(self, address: WorkerHost, key: paramiko.PKey) -> HostKeyRefused:
        file, keys = self._find(address)
        expected = ", ".join(fingerprint(known) for known in keys)
        return HostKeyRefused(
            f"the host key of {address.known_as} is not the one that is known: it shows {fingerprint(key)},"
            f" {file} has {expected}; somebody may be in between",
            hint="if the machine was reinstalled, forget the old key with:"
            f" ssh-keygen -R {shlex.quote(address.known_as)} -f {shlex.quote(str(file))}",
        )

    def _find(self, address: WorkerHost) -> tuple[Path | None, list[paramiko.PKey]]:
        for path in self._files:
            found = _load(path).lookup(address.known_as)
            if found:
                return path, list(found.values())
        return None, []


def fingerprint(key: paramiko.PKey) -> str:
    """As OpenSSH shows it: SHA256:… (TYPE)."""
    digest = base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")
    return f"SHA256:{digest} ({_TYPES.get(key.get_name(), key.get_name())})"


def fetch(address: WorkerHost, seconds: float) -> paramiko.PKey:
    """The key that the host shows, for a person to confirm; nobody logs in. Raises `NodeUnreachable`."""
    transport = None
    try:
        transport = paramiko.Transport(open_socket(address, seconds))
        transport.banner_timeout = seconds
        transport.start_client(timeout=seconds)
        key: Any = transport.get_remote_server_key()
        return key
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise NodeUnreachable(f"{address.known_as} shows no host key: {error or type(error).__name__}") from None
    finally:
        if transport is not None:
            transport.close()


def _load(path: Path) -> paramiko.HostKeys:
    try:
        return paramiko.HostKeys(str(path))
    except FileNotFoundError:
        return paramiko.HostKeys()
    except (OSError, UnicodeDecodeError) as error:
        raise HostKeyRefused(f"{path} cannot be read: {error}") from None
    except paramiko.host_keys.InvalidHostKey as error:
        raise HostKeyRefused(f"{path} has a line that is not a host key: {str(error.line)[:60]}") from None


_TYPES = {
    "ssh-ed25519": "ED25519",
    "ssh-rsa": "RSA",
    "ecdsa-sha2-nistp256": "ECDSA",
    "ecdsa-sha2-nistp384": "ECDSA",
    "ecdsa-sha2-nistp521": "ECDSA",
}
