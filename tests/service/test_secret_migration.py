"""Secrets from before they had namespaces go where they are used, whatever cuts the move short."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cumulus import paths
from cumulus.answers.secrets import SecretMove
from cumulus.lib import files
from cumulus.resources.submitter import SUBMITTER, SUBMITTER_ADMIN
from cumulus.secrets import JobSecrets, SecretStore, SecretUnavailable
from cumulus.service.secret_migration import check_moved, move, planned
from cumulus.store.memory import MemoryStore
from tests.documents import job, node


@pytest.fixture
def home(tmp_path: Path) -> Path:
    old = SecretStore(paths.old_secrets_dir(tmp_path))
    for name, key in (("hub", "token"), ("hub", "user"), ("gpu-1", "ssh-privatekey"), ("idle", "k")):
        old.set(name, key, f"{name} {key}\n\n")
    return tmp_path


def naming(secret: str, namespace: str, **annotations: str) -> dict[str, object]:
    made = job(f"of-{namespace}", namespace=namespace)
    made["spec"]["env"] = [{"name": "T", "valueFrom": {"secretKeyRef": {"name": secret, "key": "token"}}}]
    made["metadata"]["annotations"] = annotations
    return made


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    machine = node("gpu-1")
    machine["spec"] = {"ssh": {"host": "h", "user": "root", "keySecret": "gpu-1"}}
    store.create(machine)
    store.create(naming("hub", "team"))
    store.create(naming("hub", "lab", **{SUBMITTER: "root", SUBMITTER_ADMIN: "true"}))
    # Who names a secret after the fact gets none.
    store.create(naming("idle", "mallory", **{SUBMITTER: "mallory"}))
    return store


MOVES = [SecretMove("gpu-1", ("",)), SecretMove("hub", ("lab", "team")), SecretMove("idle", ("default",))]


def check_whole(home: Path) -> None:
    jobs, system = JobSecrets(paths.job_secrets_dir(home)), SecretStore(paths.system_secrets_dir(home))
    assert jobs.namespaces() == ["default", "lab", "team"]
    for namespace in ("lab", "team"):
        assert [*jobs.of(namespace).list()] == [("hub", "token"), ("hub", "user")]
        assert jobs.of(namespace).read("hub", "token") == b"hub token\n\n"
    assert jobs.of("default").read("idle", "k") == b"idle k\n\n"
    assert [*system.list()] == [("gpu-1", "ssh-privatekey")]
    check_moved(home)


def test_each_goes_where_it_is_used(home: Path, store: MemoryStore) -> None:
    with pytest.raises(SecretUnavailable, match="from before secrets had namespaces: gpu-1, hub, idle") as caught:
        check_moved(home)
    assert "secret migrate --dry-run" in str(caught.value.hint)
    assert planned(store, home, "default") == MOVES
    move(home, MOVES)
    check_whole(home)
    assert planned(store, home, "default") == []


def test_it_goes_on_after_a_crash_at_any_write(home: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real_replace, real_unlink = os.replace, os.unlink
    left = 0

    def step() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(5, "cut short")

    def replace(source: str, target: str) -> None:
        step()
        real_replace(source, target)

    def unlink(path: str) -> None:
        if not os.path.basename(path).startswith("."):
            step()
        real_unlink(path)

    monkeypatch.setattr(files.os, "replace", replace)
    monkeypatch.setattr(files.os, "unlink", unlink)
    crashes = 0
    while True:
        left = 1
        try:
            move(home, planned(store, home, "default"))
            break
        except SecretUnavailable:
            crashes += 1
    # Six copies and four deletions, one a run.
    assert crashes == 9
    check_whole(home)


def test_another_value_at_the_new_place_is_not_written_over(home: Path) -> None:
    JobSecrets(paths.job_secrets_dir(home)).of("default").set("idle", "k", "newer")
    with pytest.raises(SecretUnavailable, match="with another value"):
        move(home, [SecretMove("idle", ("default",))])
    assert SecretStore(paths.old_secrets_dir(home)).read("idle", "k") == b"idle k\n\n"
    assert JobSecrets(paths.job_secrets_dir(home)).of("default").get("idle", "k") == "newer"
