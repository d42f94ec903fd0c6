"""The servers that a user has logged in to: a file of kubeconfig's form, as JSON, readable by its owner alone.

kubectl reads it too (KUBECONFIG=…). Standard library only.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from cumulus.errors import CumulusError, NotFound
from cumulus.lib.files import write_durably


class Context(NamedTuple):
    """One server, who one is there, and a default namespace."""

    name: str
    server: str
    """`https://HOST:PORT`"""
    ca: str = ""
    """PEM; "": what the system trusts."""
    token: str = ""
    namespace: str = ""


class Contexts(NamedTuple):
    """What the file says."""

    all: tuple[Context, ...] = ()
    current_name: str = ""

    @property
    def current(self) -> Context | None:
        """Raises NotFound where the file names one that it has not."""
        return self.named(self.current_name) if self.current_name else None

    def named(self, name: str) -> Context:
        """Raises NotFound."""
        for each in self.all:
            if each.name == name:
                return each
        known = ", ".join(each.name for each in self.all)
        raise NotFound(
            f"there is no context {name}",
            hint=f"there is: {known}" if known else "cumulus login SERVER makes one",
        )

    def of_server(self, server: str) -> Context | None:
        """One of that server; the current one first."""
        return self._best(each for each in self.all if each.server == server)

    def of_host(self, host: str) -> Context | None:
        """One of a server on that host; the current one first."""
        return self._best(
            each for each in self.all if each.server.removeprefix("https://").rpartition(":")[0] == host.lower()
        )

    def with_context(self, made: Context) -> Contexts:
        """With one more, which takes the place of one of that name, as the current one."""
        return Contexts((*(each for each in self.all if each.name != made.name), made), made.name)

    def using(self, name: str) -> Contexts:
        """With another current one. Raises NotFound."""
        return Contexts(self.all, self.named(name).name)

    def without(self, name: str) -> Contexts:
        """Without one of them. Raises NotFound."""
        gone = self.named(name)
        current = "" if self.current_name == name else self.current_name
        return Contexts(tuple(each for each in self.all if each is not gone), current)

    def _best(self, fitting: Iterable[Context]) -> Context | None:
        found = list(fitting)
        return next((each for each in found if each.name == self.current_name), found[0] if found else None)


def read(path: Path) -> Contexts:
    """What the file says; no contexts where there is none. Raises CumulusError."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return Contexts()
    except OSError as error:
        raise CumulusError(f"{path} cannot be read: {error.strerror}") from None
    # On Windows the mode says nothing: a user's files are theirs by what the home directory grants.
    if mode & 0o077 and os.name != "nt":
        raise CumulusError(
            f"{path} holds tokens, and other users can read it (mode {mode:04o})", hint=f"run: chmod 600 {path}"
        )
    try:
        return from_kubeconfig(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CumulusError(
            f"{path} is not a list of contexts: {error}", hint="mend it, or remove it and log in again"
        ) from None


def write(path: Path, contexts: Contexts) -> None:
    """Put it in the file's place, whole or not at all. Raises CumulusError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(str(path), json.dumps(to_kubeconfig(contexts), indent=2).encode() + b"\n")
    except OSError as error:
        raise CumulusError(f"{path} cannot be written: {error.strerror}") from None


def from_kubeconfig(document: Any) -> Contexts:
    """Raises ValueError, KeyError, TypeError and AttributeError where it is none."""
    clusters = {each["name"]: each["cluster"] for each in document.get("clusters") or ()}
    users = {each["name"]: each["user"] for each in document.get("users") or ()}
    found = []
    for each in document.get("contexts") or ():
        said = each["context"]
        cluster, user = clusters[said["cluster"]], users.get(said.get("user"), {})
        texts = (each["name"], cluster["server"], user.get("token", ""), said.get("namespace", ""))
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"context {each['name']} holds something else than text")
        name, server, token, namespace = texts
        found.append(Context(name, server, _pem(cluster.get("certificate-authority-data", "")), token, namespace))
    return Contexts(tuple(found), str(document.get("current-context") or ""))


def to_kubeconfig(contexts: Contexts) -> dict[str, Any]:
    """The form that kubectl reads. Each context has a cluster and a user of its own, with its name."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": contexts.current_name,
        "contexts": [
            {"name": each.name, "context": _filled(cluster=each.name, user=each.name, namespace=each.namespace)}
            for each in contexts.all
        ],
        "clusters": [
            {
                "name": each.name,
                "cluster": _filled(
                    server=each.server, **{"certificate-authority-data": base64.b64encode(each.ca.encode()).decode()}
                ),
            }
            for each in contexts.all
        ],
        "users": [{"name": each.name, "user": _filled(token=each.token)} for each in contexts.all],
    }


def _filled(**texts: str) -> dict[str, str]:
    return {name: text for name, text in texts.items() if text}


def _pem(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode("ascii")
    except binascii.Error:
        raise ValueError("certificate-authority-data is not base64") from None
