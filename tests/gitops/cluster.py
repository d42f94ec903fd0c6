"""A cluster with a Source of a real git repository, on a fake clock: commit, sync, look."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cumulus.gitops.following import SourceFollowing
from cumulus.gitops.room import SourceRoom, credentials
from cumulus.resources.key import Document, Key
from cumulus.resources.source import Source
from cumulus.secrets import JobSecrets
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.store.base import Store
from cumulus.testing.backend import Script
from tests.controllers.driver import Daemon, World, settle
from tests.controllers.exact import ExactStore

ME = Identity.of_this_process()
ENVIRONMENT = {
    "PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "HOME": "/nonexistent",
    "GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.org", "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org", "GIT_AUTHOR_DATE": "2030-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2030-01-01T00:00:00Z",
}  # fmt: skip


def job(name: str = "train", *, command: str = "train.py", **more: Any) -> str:
    """The manifest of a job; `more`: fields of its spec, and `annotations`, `labels`."""
    annotations, labels = more.pop("annotations", {}), more.pop("labels", {})
    spec = "".join(f"  {field}: {value}\n" for field, value in more.items())
    return (
        f"apiVersion: cumulus.dev/v1alpha1\nkind: GPUJob\nmetadata:\n  name: {name}\n"
        f"  annotations: {annotations}\n  labels: {labels}\n"
        f"spec:\n  command: [python, {command}]\n  gpu: {{memory: 0.1, duration: 1h}}\n{spec}"
    )


class Repo:
    """A repository with a work tree, to which people commit."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "-b", "main")

    @property
    def url(self) -> str:
        return f"file://{self.path}"

    def git(self, *arguments: str, **environment: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env={**ENVIRONMENT, **environment}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, files: dict[str, str | None], message: str = "change", *options: str) -> str:
        """Write the files, and remove those that are None: the commit."""
        for name, content in files.items():
            file = self.path / name
            if content is None:
                file.unlink()
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message, *options)
        return self.head

    @property
    def head(self) -> str:
        return self.git("rev-parse", "HEAD")


class Cluster:
    """A control plane over a store, in memory if none is given, and the service in front of it."""

    def __init__(self, home: Path, nodes: Sequence[str] = (), store: Store | None = None) -> None:
        self.home = home
        self.world = World(nodes, script=lambda workload: Script(self.job_seconds), store=store)
        self.job_seconds = 1.0
        self.store = self.world.store
        self.service = Service(lambda: self.store, home, self.world.clock, switches=False)
        self.daemon = self.new_daemon()

    def new_daemon(self, store: Any = None) -> Daemon:
        """As after a crash: with nothing in memory."""
        from cumulus.service.on_behalf import OnBehalf

        secrets = JobSecrets(self.home / "job-secrets")
        self.following = SourceFollowing(self.home / "sources", self.world.clock, partial(credentials, secrets))
        submitters = OnBehalf(store or self.store, self.world.clock, self.service.access)
        self.room = SourceRoom(submitters, secrets, self.following)
        self.daemon = Daemon(self.world, sources=self.room, store=store)
        return self.daemon

    def add(self, name: str = "cluster", *, directory: Path | None = None, **spec: Any) -> None:
        """Make a Source. `url`, `branch`, `path` … are its git's."""
        names = ("url", "branch", "tag", "commit", "semver", "path", "interval", "credentials")
        git = {field: spec.pop(field) for field in names if field in spec}
        place = {"directory": {"path": str(directory)}} if directory is not None else {"git": git}
        self.service.objects.create(ME, _source(name, {**place, **spec}))

    def change(self, name: str = "cluster", **spec: Any) -> None:
        self.service.objects.patch(ME, Key("Source", "default", name), {"spec": spec})

    def sync(self, seconds: float = 0.0) -> None:
        """Let time pass; at its end every server is asked, and all that follows is done."""
        settle(self.world, self.daemon, seconds=seconds)
        for _ in range(20):
            with self.following._news:
                for found in self.following._follows.values():
                    found.due = 0.0
            asked = [self.following.step() for _ in range(len(self.following._follows))]
            settle(self.world, self.daemon, seconds=1.0)
            if not any(asked) or not self._waits():
                return

    def _waits(self) -> bool:
        """Whether something has begun that only goes on when it is looked at again."""
        return any(source.status.counts.replacing for source in self.world.client.list(Source))

    def source(self, name: str = "cluster") -> Source:
        return self.world.client.get(Source, "default", name)

    def names(self, kind: str = "GPUJob") -> list[str]:
        from cumulus.store.base import Query

        return [item["metadata"]["name"] for item in self.store.list(Query(kind)).items]

    def get(self, name: str, kind: str = "GPUJob") -> Document:
        return self.store.get(Key(kind, "default", name))

    def written(self, since: int) -> list[Document]:
        """What was stored by each write after that revision, but for those of the election of a leader."""
        found = [event.document for event in ExactStore(self.store).watch(since=since).next()]
        return [document for document in found if document["kind"] != "Lease"]

    def condition(self, type: str, name: str = "cluster") -> tuple[str, str]:
        found = next(c for c in self.source(name).status.conditions if c.type == type)
        return found.status, found.reason


def _source(name: str, spec: Document) -> Document:
    return {"apiVersion": "cumulus.dev/v1alpha1", "kind": "Source", "metadata": {"name": name}, "spec": spec}
