from __future__ import annotations

import os
from pathlib import Path

import pytest

from cumulus.secrets import MAX_BYTES, SecretStore, SecretUnavailable


@pytest.fixture
def store(tmp_path: Path) -> SecretStore:
    return SecretStore(tmp_path / "secrets")


def refused(store: SecretStore, name: str = "db", key: str = "password") -> str:
    with pytest.raises(SecretUnavailable) as caught:
        store.get(name, key)
    return f"{caught.value} | {caught.value.hint}"


def test_what_was_set_is_got_and_private(store: SecretStore) -> None:
    store.set("db", "password", "grün\nzwei")
    assert store.get("db", "password") == "grün\nzwei"
    modes = [os.stat(Path(store.root) / p).st_mode & 0o777 for p in ("", "db", "db/password")]
    assert modes == [0o700, 0o700, 0o600]


def test_the_newline_an_editor_adds_is_not_part_of_the_value(store: SecretStore) -> None:
    store.set("db", "password", "x\n")
    assert store.get("db", "password") == "x"


def test_list_and_delete(store: SecretStore) -> None:
    assert store.list() == []
    for name, key in (("b", "k"), ("a", "k2"), ("a", "k1")):
        store.set(name, key, "v")
    assert store.list() == [("a", "k1"), ("a", "k2"), ("b", "k")]
    store.delete("a", "k1")
    store.delete("a", "k1")
    store.delete("b", "k")
    assert store.list() == [("a", "k2")]
    assert not (Path(store.root) / "b").exists()


def test_a_missing_one_is_named_with_where_to_write_it(store: SecretStore) -> None:
    assert refused(store) == (
        f"secret db has no key password on this node | write it to {store.root}/db/password with mode 0600"
    )


@pytest.mark.parametrize(("path", "mode"), [("db/password", 0o640), ("db", 0o750), ("", 0o701), ("db/password", 0o602)])
def test_open_permissions_are_refused(store: SecretStore, path: str, mode: int) -> None:
    store.set("db", "password", "hunter2")
    os.chmod(Path(store.root) / path, mode)
    message = refused(store)
    assert "can be read by other users" in message
    assert "chmod 0" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", ".hidden", "a\0b", "a\n", "é"])
def test_names_that_are_no_names_are_refused(store: SecretStore, name: str) -> None:
    assert "cannot be the name" in refused(store, name=name)
    assert "cannot be the key" in refused(store, key=name)
    with pytest.raises(SecretUnavailable):
        store.set(name, "k", "v")


def test_links_and_pipes_are_not_followed(store: SecretStore, tmp_path: Path) -> None:
    store.set("db", "other", "v")
    (tmp_path / "target").write_text("elsewhere")
    os.symlink(tmp_path / "target", Path(store.root) / "db" / "password")
    assert "cannot be read" in refused(store)
    os.unlink(Path(store.root) / "db" / "password")
    os.mkfifo(Path(store.root) / "db" / "password", 0o600)
    assert "not a regular file" in refused(store)


def test_values_that_fit_no_environment_are_refused(store: SecretStore) -> None:
    for value in ("a\0b", "x" * (MAX_BYTES + 1)):
        with pytest.raises(SecretUnavailable):
            store.set("db", "password", value)
    store.set("db", "password", "v")
    (Path(store.root) / "db" / "password").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in refused(store)


def test_a_failed_write_leaves_the_old_value(store: SecretStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.set("db", "password", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SecretUnavailable, match="No space left"):
        store.set("db", "password", "new")
    assert store.get("db", "password") == "old"
    assert os.listdir(Path(store.root) / "db") == ["password"]
