"""Secrets of a state directory: `ROOT/NAME/KEY`, one file for each value, readable by the owner alone.

Jobs have a root for each namespace, so a job takes no other namespace's. What the daemon itself needs, nodes' SSH keys
for one, has a root of its own, which no job can name.

The supervisor of a job reads them when it starts the command, and puts them into its environment; they are in
no object, specification, log, event, message or command line. A process's environment can be read by the same
user (/proc/PID/environ): that is as far as an environment variable can be kept. Standard library only.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence

from cumulus.errors import CumulusError
from cumulus.lib.files import write_durably

MAX_BYTES = 128 * 1024
"""An environment string is at most 128 KiB on Linux (MAX_ARG_STRLEN)."""


class SecretUnavailable(CumulusError):
    """The secret is missing, or its files cannot be used. The message never holds a value."""


class JobSecrets:
    """The secrets that jobs take: `ROOT/NAMESPACE/NAME/KEY`. Every method raises `SecretUnavailable`."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)

    def of(self, namespace: str) -> SecretStore:
        """Those of one namespace."""
        if not _NAME.fullmatch(namespace):
            raise SecretUnavailable(f"{namespace!r} is no namespace of secrets")
        return SecretStore(os.path.join(self.root, namespace))

    def namespaces(self) -> Sequence[str]:
        """Those that may have secrets, sorted."""
        try:
            return sorted(name for name in os.listdir(self.root) if _NAME.fullmatch(name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SecretUnavailable(f"{self.root} cannot be read: {error.strerror}") from None


class SecretStore:
    """The secrets under one directory. Every method raises `SecretUnavailable`."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)

    def get(self, name: str, key: str) -> str:
        """The value, without a newline at its end. Refused where others than the owner could read it."""
        try:
            return self.read(name, key).decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise SecretUnavailable(
                f"secret {name}, key {key} is not UTF-8 text", hint="encode binary values, as base64 for example"
            ) from None

    def read(self, name: str, key: str) -> bytes:
        """The value's file as it is. Refused where others than the owner could read it."""
        path = self._path(name, key)
        for private in (self.root, os.path.dirname(path)):
            self._check_private(private, "0700")
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise self._missing(name, key) from None
        except OSError as error:
            raise SecretUnavailable(f"secret {name}, key {key} cannot be read: {error.strerror}") from None
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise SecretUnavailable(f"secret {name}, key {key} is not a regular file")
            self._check_mode(path, status, "0600")
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise SecretUnavailable(f"secret {name}, key {key} is larger than {MAX_BYTES // 1024} KiB")
        return content

    def set(self, name: str, key: str, value: str) -> None:
        """Write one key, whole or not at all."""
        self.write(name, key, self.check(name, key, value))

    def check(self, name: str, key: str, value: str) -> bytes:
        """The value as its file would hold it."""
        self._path(name, key)
        try:
            content = value.encode()
        except UnicodeEncodeError:
            raise SecretUnavailable(
                f"secret {name}, key {key} is not UTF-8 text", hint="encode binary values, as base64 for example"
            ) from None
        if len(content) > MAX_BYTES or "\0" in value:
            raise SecretUnavailable(f"secret {name}, key {key} must be text without NUL of at most {MAX_BYTES} bytes")
        return content

    def write(self, name: str, key: str, content: bytes) -> None:
        """Write a value's file, whole or not at all."""
        path = self._path(name, key)
        try:
            for directory in (os.path.dirname(self.root), self.root, os.path.dirname(path)):
                os.makedirs(directory, mode=0o700, exist_ok=True)
            # What it writes aside begins with a dot: that is no legal key, so no reader takes it for one.
            write_durably(path, content)
        except OSError as error:
            raise SecretUnavailable(f"secret {name}, key {key} cannot be written: {error.strerror}") from None

    def list(self) -> Sequence[tuple[str, str]]:
        """Every (name, key), sorted."""
        try:
            return sorted(
                (name, key)
                for name in os.listdir(self.root)
                if _NAME.fullmatch(name) and os.path.isdir(os.path.join(self.root, name))
                for key in os.listdir(os.path.join(self.root, name))
                if _NAME.fullmatch(key)
            )
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SecretUnavailable(f"{self.root} cannot be read: {error.strerror}") from None

    def delete(self, name: str, key: str) -> None:
        """Delete one key, and the secret with its last. Missing ones are no error."""
        path = self._path(name, key)
        try:
            os.unlink(path)
            if not os.listdir(os.path.dirname(path)):
                os.rmdir(os.path.dirname(path))
        except FileNotFoundError:
            return
        except OSError as error:
            raise SecretUnavailable(f"secret {name}, key {key} cannot be deleted: {error.strerror}") from None

    def _path(self, name: str, key: str) -> str:
        for what, text in (("name", name), ("key", key)):
            if not _NAME.fullmatch(text):
                raise SecretUnavailable(
                    f"{text!r} cannot be the {what} of a secret",
                    hint="use letters, digits, '-', '_' and '.', beginning with a letter, digit or '_'",
                )
        return os.path.join(self.root, name, key)

    def _missing(self, name: str, key: str) -> SecretUnavailable:
        return SecretUnavailable(
            f"secret {name} has no key {key} on this node", hint=f"write it to {self._path(name, key)} with mode 0600"
        )

    def _check_private(self, directory: str, wanted: str) -> None:
        try:
            self._check_mode(directory, os.stat(directory), wanted)
        except FileNotFoundError:
            return  # The value is missing then, and that says more.
        except OSError as error:
            raise SecretUnavailable(f"{directory} cannot be read: {error.strerror}") from None

    def _check_mode(self, path: str, status: os.stat_result, wanted: str) -> None:
        if status.st_mode & 0o077:
            raise SecretUnavailable(
                f"{path} can be read by other users (mode {stat.S_IMODE(status.st_mode):04o})",
                hint=f"run: chmod {wanted} {path}",
            )
        if status.st_uid not in (os.geteuid(), 0):
            raise SecretUnavailable(
                f"{path} belongs to another user (uid {status.st_uid})", hint="chown it to yourself"
            )


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}")
