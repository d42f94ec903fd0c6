"""What the source controller stands on, beyond what every controller has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cumulus.errors import CumulusError
from cumulus.gitops.directories import DirectoryWatch
from cumulus.gitops.errors import SourceUnreadable
from cumulus.gitops.following import SourceFollowing
from cumulus.gitops.git import Credentials
from cumulus.lib.unix_user import UnixUser
from cumulus.manifest import Manifest, Problem
from cumulus.resources.reasons import SourceReason
from cumulus.resources.submitter import Submitter
from cumulus.secrets import JobSecrets
from cumulus.store.base import Document, Documents, Fence, Write


class SubmitterAccess(Protocol):
    """Acts for the people who made Sources and GPUCronJobs. Every method raises Forbidden."""

    def user_of(self, submitter: Submitter) -> UnixUser | None:
        """The Unix user whose rights count when something is read for them; None for this process's own."""
        ...

    def refusals(self, submitter: Submitter, manifests: Sequence[Manifest]) -> Sequence[Problem]:
        """Each manifest that the person may not apply, and why."""
        ...

    def commit(
        self, submitter: Submitter, writes: Sequence[Write], own: Sequence[Write], *, fence: Fence | None,
        owner: Document | None = None,
    ) -> Documents:  # fmt: skip
        """Write what the person asks for, and what is the controller's own, in one transaction. The answers to both.
        `owner`: the reference to what owns all that is made."""
        ...


@dataclass(frozen=True, slots=True)
class SourceRoom:
    """One for each daemon, for all terms of leadership."""

    submitters: SubmitterAccess
    secrets: JobSecrets
    following: SourceFollowing
    directories: DirectoryWatch = field(default_factory=DirectoryWatch)


def credentials(secrets: JobSecrets, namespace: str, name: str) -> Credentials:
    """What a secret says of a git server. Raises SourceUnreadable."""
    found = secret(secrets, namespace, name)
    password = found.get("password") or found.get("token") or b""
    return Credentials(
        _line(found.get("username", b"")), _line(password), found.get("ssh-privatekey", b""),
        found.get("known_hosts", b""), found.get("ca.crt", b""),
    )  # fmt: skip


def secret(secrets: JobSecrets, namespace: str, name: str) -> Mapping[str, bytes]:
    """All keys of a secret. Raises SourceUnreadable."""
    try:
        held = secrets.of(namespace)
        found = {key: held.read(name, key) for known, key in held.list() if known == name}
    except CumulusError as error:
        raise SourceUnreadable(SourceReason.CREDENTIALS, str(error), hint=error.hint) from None
    if not found:
        raise SourceUnreadable(
            SourceReason.CREDENTIALS, f"there is no secret {name} in the namespace {namespace}",
            hint=f"make it: cumulus secret create {name} -n {namespace}",
        )  # fmt: skip
    return found


def _line(value: bytes) -> str:
    return value.decode("utf-8", "replace").strip()
