"""Source: a directory or git repository that says what should exist. The source controller keeps the cluster equal."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from cumulus.lib.versions import check_range
from cumulus.resources.field_managers import OF_SOURCES
from cumulus.resources.fields import (
    AbsolutePath,
    Duration,
    FieldError,
    Model,
    SecretName,
    Text,
    Time,
    all_fields,
    check_path,
    check_text,
    on_write,
    rule,
)
from cumulus.resources.git_url import check_url
from cumulus.resources.meta import Condition, Resource
from cumulus.resources.submitter import DaemonRules, Submitter

KEEP_ANNOTATION = "cumulus.dev/keep"
"""Annotation of any object, "true": no Source deletes it."""
ON_CHANGE_ANNOTATION = "cumulus.dev/on-change"
"""Annotation of an object in a Source: its own onChange."""
RUN_ANNOTATION = "cumulus.dev/run"
"""Annotation of a job in a Source: another value runs the same job once more."""
MOST_OBJECTS = 2_000
"""Of one Source: its inventory has to fit into its status."""
LONGEST_NAME = 110
"""Of namespace and name together: they are in the name of the field manager."""

_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+@-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_RANGE = re.compile(r"[0-9A-Za-z.*^~<>=|, +-]{1,100}")


def field_manager(namespace: str, name: str) -> str:
    """The name under which a Source owns fields."""
    return f"{OF_SOURCES}{namespace}/{name}"


def _ref(value: str) -> str:
    if not _REF.fullmatch(value) or ".." in value or value.endswith((".lock", "/", ".")) or "//" in value:
        raise ValueError(f"{value[:80]!r} is not the name of a branch or tag")
    return value


def _commit(value: str) -> str:
    if not _COMMIT.fullmatch(value):
        raise ValueError(f"{value[:80]!r} is not a commit; write all 40 hexadecimal digits")
    return value


def _range(value: str) -> str:
    if not _RANGE.fullmatch(value):
        raise ValueError(f"{value[:80]!r} is not a range of versions; write ^1.2, ~1.4.0 or >=1.0 <2.0")
    check_range(value)
    return value


def _repository_path(value: str) -> str:
    if value in ("", ".", "./"):
        return ""
    if value.startswith("/"):
        raise ValueError("must be a path within the repository; leave the '/' at its start out")
    return "/".join(part for part in check_path(value).split("/") if part not in ("", "."))


Ref = Annotated[str, on_write(_ref)]
Commit = Annotated[str, on_write(_commit)]


class Prune(StrEnum):
    NEVER = "Never"
    CONFIRM = "Confirm"
    AUTO = "Auto"


class Drift(StrEnum):
    CORRECT = "Correct"
    REPORT = "Report"
    OFF = "Off"


class OnChange(StrEnum):
    RECREATE = "Recreate"
    IGNORE = "Ignore"
    FAIL = "Fail"


class ItemState(StrEnum):
    """What is special about an object of an inventory."""

    NONE = ""
    REPLACING = "Replacing"
    GONE = "Gone"
    IGNORED = "Ignored"
    UNPRUNED = "Unpruned"


class SyncResult(StrEnum):
    SYNCED = "Synced"
    FAILED = "Failed"
    CORRECTED = "Corrected"
    REPLACING = "Replacing"


class GitSource(Model):
    """A git repository. Of branch, tag, commit and semver at most one is given."""

    url: Annotated[str, on_write(check_url), AfterValidator(check_text)] = Field(
        description="https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH or file:///PATH."
    )
    branch: Ref | None = Field(None, description="Follow this branch. If none is given: the repository's default one.")
    tag: Ref | None = Field(None, description="Take this tag.")
    commit: Commit | None = Field(None, description="Take this very commit: all of its hexadecimal digits.")
    semver: Annotated[str, on_write(_range)] | None = Field(
        None, description="Take the tag with the highest version in this range: ^1.2, ~1.4.0, >=1.0 <2.0."
    )
    path: Annotated[str, on_write(_repository_path)] = Field(
        "", description="The directory with the manifests, which is read with all that are in it. The root if left out."
    )
    interval: Duration = Field("1m", description="How often the repository is asked whether something is new.")
    credentials: SecretName | None = Field(
        None,
        description="A secret of this namespace: username and password (or token) for https, ssh-privatekey and "
        "known_hosts for ssh, ca.crt for a server with a certificate of your own.",
    )

    @rule
    def _one_ref(self) -> None:
        given = [name for name in ("branch", "tag", "commit", "semver") if getattr(self, name) is not None]
        if len(given) > 1:
            raise FieldError((given[1],), f"cannot be given beside {given[0]}: leave one of them out")


class DirectorySource(Model):
    """A directory of the daemon's machine."""

    path: AbsolutePath = Field(
        description="Where it is. It is read with all that are in it, as the user who made the Source."
    )


class PruneLimit(Model):
    """How much may be deleted without being asked for. What is more waits for `cumulus source approve`."""

    count: int = Field(10, ge=0, description="Objects at most.")
    percent: int = Field(50, ge=0, le=100, description="Of the Source's objects at most.")
    gpu_hours: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="Running work that would be lost at most: devices times the hours that they have run. What is made "
        "anew counts too.",
    )


class Verify(Model):
    """Whose signature the commit, or the tag, has to have."""

    keys: SecretName = Field(
        description="A secret of this namespace: allowed_signers, as ssh-keygen(1) describes it, or gpg-keys, public "
        "keys as gpg exports them with --armor."
    )
    object: Literal["Commit", "Tag"] = Field("Commit", description="What has to be signed: Commit or Tag.")


class SourceSpec(Model):
    """Where the manifests are, and what may be done with them. Either git or directory is given."""

    git: GitSource | None = Field(None, description="A git repository.")
    directory: DirectorySource | None = Field(None, description="A directory of the daemon's machine.")
    render: Literal["kustomize", "helm"] | None = Field(
        None,
        description="kustomize: the path is a kustomization, which may refer to other folders of the repository. helm: "
        "it is a chart, with its dependencies in charts/; the release has the Source's name. It is rendered on the "
        "daemon's machine, without a network. If left out: the manifests are taken as they are.",
    )
    variables: Annotated[str, on_write(_repository_path)] | None = Field(
        None,
        description="A file below the path with a line NAME=value for each variable: ${{ NAME }} in manifests becomes "
        "its value. A name that it does not have is a mistake.",
    )
    prune: Prune = Field(
        Prune.NEVER,
        description="What becomes of objects that are no longer in the source. Never: they stay. Confirm: they go once "
        "somebody approves. Auto: they go, within pruneLimit.",
    )
    prune_limit: PruneLimit = Field(
        default_factory=PruneLimit, description="How much may be deleted without being asked for."
    )
    drift: Drift = Field(
        Drift.CORRECT,
        description="What becomes of fields of the source that somebody else changed. Correct: they are changed back. "
        "Report: it is told. Off: nothing. A new commit sets them in each case.",
    )
    on_change: OnChange = Field(
        OnChange.RECREATE,
        description="What becomes of an object whose immutable fields change, a job's command for one. Recreate: it is "
        "deleted and made anew. Ignore: it stays as it is. Fail: the commit is refused.",
    )
    suspend: bool = Field(False, description="Do nothing until this is false again.")
    pin: Commit | None = Field(
        None, description="Keep the cluster at this commit, whatever the branch says: cumulus source rollback sets it."
    )
    approve: Text | None = Field(
        None, description="The hash of the one pending sync that may be done: cumulus source approve sets it."
    )
    verify: Verify | None = Field(None, description="Whose signature is demanded. If left out: nobody's.")
    webhook: SecretName | None = Field(
        None,
        description="A secret of this namespace whose key token is shared with the forge that calls "
        "/hooks/NAMESPACE/NAME. If left out: nobody may call.",
    )

    @rule
    def _one_place(self) -> None:
        if (self.git is None) == (self.directory is None):
            at, what = (("git",), "either git or directory is required") if self.git is None else (
                ("directory",), "cannot be given beside git: leave one of them out")  # fmt: skip
            raise FieldError(at, what)
        if self.render is not None and self.variables is not None:
            raise FieldError(
                ("variables",), "cannot be given beside render: kustomize and helm have means of their own"
            )
        for name in ("pin", "verify", "webhook"):
            if self.directory is not None and getattr(self, name) is not None:
                raise FieldError((name,), "is of git: a directory has no commits")


class Revision(Model):
    """A commit, or what a directory held."""

    revision: str = Field(description="The commit; of a directory a digest of what it holds.")
    tree: str = Field("", description="What the path held: git's name of the tree, or the digest.")
    author: str = Field("", description="Who wrote the commit.")
    subject: str = Field("", description="The first line of its message.")
    time: Time | None = Field(None, description="When it was committed.")
    signature: str = Field("", description="Verified where a signature is demanded.")


class InventoryItem(Model):
    """An object that the Source made or took over."""

    kind: str = Field(description="Its kind.")
    namespace: str = Field("", description="Its namespace.")
    name: str = Field(description="Its name.")
    uid: str = Field(description="Its uid. Another object with the same name is not the Source's.")
    hash: str = Field(description="A digest of what the source said of it when it was applied.")
    state: ItemState = Field(
        ItemState.NONE,
        description="Replacing: it is deleted, and its successor is made when it is gone. Gone: somebody or its ttl "
        "deleted it; it is not run again. Ignored: what changed in the source is not applied. Unpruned: it is no "
        "longer in the source and stays; another Source may have it.",
    )

    def replace_state(self, state: ItemState) -> InventoryItem:
        return self if state == self.state else self.model_copy(update={"state": state})


class SourceError(Model):
    """Why the source cannot be applied."""

    message: str = Field(description="What is wrong; of several problems the first ones, a line each.")
    file: str = Field("", description="The file of the first one.")
    line: int = Field(0, description="Its line.")
    column: int = Field(0, description="Its column.")
    revision: str = Field("", description="The commit that it is in.")
    problems: int = Field(1, description="How many there are.")


class PendingSync(Model):
    """What would be done, once somebody approves this hash."""

    hash: str = Field(description="Names exactly this: cumulus source approve NAME HASH.")
    revision: str = Field("", description="The commit that asks for it.")
    reasons: tuple[str, ...] = Field((), description="Why it is not done without being asked for.")
    creates: int = Field(0, description="Objects that would be made.")
    changes: int = Field(0, description="Objects that would be changed.")
    recreates: int = Field(0, description="Objects that would be deleted and made anew.")
    deletes: int = Field(0, description="Objects that would be deleted.")
    gpu_hours: float = Field(0.0, description="Running work that would be lost, in devices times hours.")
    objects: tuple[str, ...] = Field((), description="Which: deletions first, at most 100.")


class HistoryEntry(Model):
    """One sync."""

    revision: str = Field(description="The commit.")
    author: str = Field("", description="Who wrote it.")
    subject: str = Field("", description="The first line of its message.")
    time: Time = Field(description="When it was applied, or refused.")
    result: SyncResult = Field(
        description="Synced, Failed, Corrected (drift) or Replacing (the rest comes once something is gone)."
    )
    why: str = Field("", description="What made it: a commit, a pin, an approval, drift; or what was wrong.")
    created: int = Field(0, description="Objects made.")
    changed: int = Field(0, description="Objects changed.")
    deleted: int = Field(0, description="Objects deleted.")


class SourceCounts(Model):
    """How many objects."""

    objects: int = Field(0, description="In the inventory.")
    healthy: int = Field(0, description="Of these, those that are there and have not failed.")
    failed: int = Field(0, description="Those that have failed.")
    drifted: int = Field(0, description="Those with fields that somebody else changed, where drift is only reported.")
    unpruned: int = Field(0, description="Those that are no longer in the source and stay.")
    replacing: int = Field(0, description="Those that are being made anew.")


class SourceStatus(Model):
    """What the source controller saw and did."""

    observed_generation: int = Field(0, description="The generation of the spec that the controller acted on.")
    conditions: tuple[Condition, ...] = Field((), description="Ready, Synced, Healthy.")
    observed: Revision | None = Field(None, description="The newest revision that changed the path.")
    synced: Revision | None = Field(None, description="The revision that the cluster equals.")
    sync_time: Time | None = Field(None, description="When it was applied.")
    counts: SourceCounts = Field(default_factory=SourceCounts, description="How many objects it has.")
    last_error: SourceError | None = Field(None, description="Why the observed revision cannot be applied.")
    pending_sync: PendingSync | None = Field(None, description="What waits for an approval.")
    sync_request: str = Field("", description="The last request for a sync that was taken.")
    sync_done: str = Field("", description="The last request for a sync that is done: the repository was asked since.")
    history: tuple[HistoryEntry, ...] = Field((), description="The last 20 syncs, the newest last.")
    inventory: tuple[InventoryItem, ...] = Field((), description="The objects that it made or took over.")


class Source(Resource):
    """A directory or git repository whose manifests the cluster is kept equal to."""

    KIND: ClassVar[str] = "Source"
    MUTABLE: ClassVar[frozenset[str]] = all_fields(SourceSpec)

    kind: Literal["Source"] = Field("Source", description="Always Source.")
    spec: SourceSpec = Field(description="Where the manifests are, and what may be done with them.")
    status: SourceStatus = Field(
        default_factory=SourceStatus, description="What the controller saw and did. A manifest cannot set it."
    )

    @property
    def field_manager(self) -> str:
        return field_manager(self.metadata.namespace or "", self.metadata.name)

    def check_user_may_create(self) -> None:
        if len(f"{self.metadata.namespace or ''}{self.metadata.name}") > LONGEST_NAME:
            raise FieldError(("metadata", "name"), f"has, with its namespace, more than {LONGEST_NAME} characters")

    def refusal(self, submitter: Submitter, rules: DaemonRules) -> str:
        if submitter.uid is None:
            return "a Source is read as the Unix user who makes it, and you have none"
        if rules.switches or submitter.uid in (0, rules.uid):
            return ""
        return (
            f"a Source would be read as the daemon's own user (uid {rules.uid}), not as you: "
            "ask a system daemon (cumulus serve --system)"
        )
