"""The key by which a client knows the results of its own calls.

One random key in the configuration directory, readable by its owner alone. It never leaves this machine: each call gets
a key of its own, made from it and the call's name. So no node can sign for another call.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from pathlib import Path

from cumulus import paths
from cumulus.calls.envelope import KEY_BYTES
from cumulus.errors import CumulusError
from cumulus.lib.files import write_once
from cumulus.sdk.errors import Untrusted

ID_ANNOTATION = "cumulus.dev/call-key"
"""On a call's job: which client's key its results are signed by."""


def key_file() -> Path:
    """Where the key is. May not exist yet."""
    return paths.contexts_file().with_name("calls.key")


class ClientKey:
    """Makes the keys of calls from the client's own."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def load(cls) -> ClientKey | None:
        """None where there is none yet. Raises CumulusError where it can't be used."""
        path = key_file()
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                text = file.read(1024)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CumulusError(f"{path} cannot be read: {error.strerror}") from None
        if mode & 0o077 and os.name == "posix":
            raise CumulusError(
                f"{path} is a key, and other users can use it (mode {mode:04o})", hint=f"run: chmod 600 {path}"
            )
        try:
            secret = bytes.fromhex(text.decode("ascii"))
        except ValueError:
            secret = b""
        if len(secret) != KEY_BYTES:
            raise CumulusError(f"{path} holds no key", hint="remove it: results of earlier calls are lost by that")
        return cls(secret)

    @classmethod
    def make(cls) -> ClientKey:
        """The one that is there, else a new one, which stays. Raises CumulusError."""
        if (found := cls.load()) is not None:
            return found
        path = key_file()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Of two processes that make one at once, the second takes the first's.
            write_once(str(path), f"{secrets.token_hex(KEY_BYTES)}\n".encode())
        except OSError as error:
            raise CumulusError(f"{path} cannot be written: {error.strerror}") from None
        made = cls.load()
        if made is None:
            raise CumulusError(f"{path} was removed as it was made")
        return made

    @property
    def id(self) -> str:
        """Tells one key from another, and nothing of what it is."""
        return hmac.digest(self._secret, b"cumulus key id", "sha256").hex()[:16]

    def of_call(self, name: str) -> bytes:
        """The key of the call `NAMESPACE/NAME`, or of a call in a session, `NAMESPACE/NAME/ID`."""
        return hmac.digest(self._secret, b"cumulus call\n" + name.encode(), "sha256")


def key_for(id: str, name: str) -> bytes:
    """The key of a call whose job has `id` in its annotation. Raises Untrusted where this machine has not that key."""
    own = ClientKey.load()
    if own is None or not hmac.compare_digest(own.id, id):
        raise Untrusted(
            f"the result of {name} is not unpickled: it is signed by the key {id or '(none)'}, which is not here",
            hint=f"copy the key from the machine that made the call, {key_file()} there, to the same place here, "
            "with mode 0600",
        )
    return own.of_call(name)
