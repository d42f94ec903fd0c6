"""Many Sources of one repository ask it once, and those whose path changed are looked at; directories are watched."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cumulus.clock import SystemClock
from cumulus.controllers.source import controller
from cumulus.gitops import directories
from cumulus.gitops.directories import DirectoryWatch
from cumulus.gitops.errors import SourceUnreadable
from cumulus.gitops.following import SourceFollowing, Where
from cumulus.gitops.git import Credentials, Repository
from cumulus.resources.git_url import parse_url
from cumulus.resources.key import Key, key_of
from cumulus.resources.source import Source
from cumulus.secrets import JobSecrets
from tests.controllers.driver import settle
from tests.gitops.cluster import Cluster, Repo, job
from tests.waiting import PATIENCE, eventually, poll

MANY = 600


@pytest.fixture
def following(tmp_path: Path) -> SourceFollowing:
    return SourceFollowing(tmp_path / "sources", SystemClock(), lambda namespace, name: Credentials())


def test_a_commit_that_touches_one_of_many_wakes_one(following: SourceFollowing, repo: Repo) -> None:
    repo.commit({f"s{n}/a.yaml": str(n) for n in range(MANY)})
    told: list[str] = []
    following.begin(lambda namespace, name: told.append(name))
    where = Where(None, parse_url(repo.url), (("branch", "main"),), "default", "")
    for n in range(MANY):
        assert following.follow(("default", f"s{n}"), where, f"s{n}", 60.0) is None
    assert following.step()
    assert len(told) == MANY
    seen = following.follow(("default", "s7"), where, "s7", 60.0)
    assert seen is not None
    assert not following.step()
    told.clear()
    commit = repo.commit({"s7/a.yaml": "changed"})
    following.now(("default", "s7"))
    assert following.step()
    assert told == ["s7"]
    assert following.asked == 2
    after = following.follow(("default", "s7"), where, "s7", 60.0)
    assert after is not None
    assert after.revision.revision == commit
    assert after.tree != seen.tree


@pytest.mark.parametrize("many", [5, pytest.param(MANY, marks=pytest.mark.slow)])
def test_a_commit_that_touches_one_of_many_plans_one(
    cluster: Cluster, repo: Repo, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    """From the question to the plan: no other Source is read, planned or written."""
    planned: list[str] = []
    real = controller.make_plan

    def make_plan(source: Source, *given: Any, **more: Any) -> Any:
        planned.append(source.metadata.name)
        return real(source, *given, **more)

    monkeypatch.setattr(controller, "make_plan", make_plan)
    repo.commit({f"s{n}/a.yaml": job(f"j{n}", suspend="true") for n in range(many)})
    for n in range(many):
        cluster.add(f"s{n}", url=repo.url, path=f"s{n}")
    cluster.sync()
    assert set(planned) == {f"s{n}" for n in range(many)}
    asked, before = cluster.following.asked, cluster.store.revision()
    planned.clear()
    repo.commit({"s3/a.yaml": job("j3", suspend="true", priority=5)})
    cluster.sync()
    assert set(planned) == {"s3"}
    assert cluster.get("j3")["spec"]["priority"] == 5
    written = {key_of(document) for document in cluster.written(before) if document["kind"] != "Event"}
    assert written == {Key("Source", "default", "s3"), Key("GPUJob", "default", "j3")}
    assert cluster.following.asked - asked == 1


def test_a_thousand_webhooks_are_two_questions(cluster: Cluster, repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some before the question, most while it is asked, where what comes after it began must not be missed."""
    JobSecrets(cluster.home / "job-secrets").of("default").set("forge", "token", "s3cret")
    repo.commit({"a.yaml": job("a", suspend="true")})
    cluster.add(url=repo.url, interval="24h", webhook="forge")
    settle(cluster.world, cluster.daemon, seconds=0.0)
    assert cluster.following.step()
    settle(cluster.world, cluster.daemon, seconds=0.0)
    assert cluster.names() == ["a"]
    asked = cluster.following.asked
    real = Repository.look

    def called(times: int) -> None:
        for number in range(times):
            assert cluster.service.sources.called("default", "cluster", {"x-gitlab-token": "s3cret"}, b"{}")
            if number % 50 == 0:
                # The daemon takes it, and so the next call is another request.
                settle(cluster.world, cluster.daemon, seconds=0.0)
        settle(cluster.world, cluster.daemon, seconds=0.0)

    def look(self: Repository, *given: Any) -> Any:
        found = real(self, *given)
        if cluster.following.asked == asked + 1:
            repo.commit({"b.yaml": job("b", suspend="true")})
            called(900)
        return found

    monkeypatch.setattr(Repository, "look", look)
    called(100)
    while cluster.following.step():
        settle(cluster.world, cluster.daemon, seconds=0.0)
    assert cluster.following.asked == asked + 2
    assert cluster.names() == ["a", "b"]


def test_a_thousand_calls_are_two_questions(following: SourceFollowing, repo: Repo) -> None:
    repo.commit({"a.yaml": "a"})
    source = ("default", "cluster")
    where = Where(None, parse_url(repo.url), (), "default", "")
    following.follow(source, where, "", 3600.0)
    real, inside, go = following.repository, threading.Event(), threading.Event()

    def slow(of: Where) -> object:
        inside.set()
        go.wait(PATIENCE)
        return real(of)

    following.repository = slow  # type: ignore[method-assign, assignment]
    worker = threading.Thread(target=following.run, daemon=True)
    worker.start()
    assert inside.wait(PATIENCE)
    for _ in range(1000):
        following.now(source)
    go.set()
    eventually(lambda: following.asked == 2)
    eventually(lambda: following.follow(source, where, "", 3600.0) is not None)
    following.close()
    worker.join(PATIENCE)
    assert following.asked == 2


def test_one_users_slow_servers_keep_no_other_waiting(following: SourceFollowing) -> None:
    from cumulus.lib.unix_user import UnixUser

    users = [UnixUser(uid, uid, (uid,), f"u{uid}", "/", "/bin/sh") for uid in (5001, 5002)]
    for n in range(9):
        where = Where(users[0], parse_url(f"https://slow.example.org/{n}"), (), "default", "")
        following.follow(("default", f"slow-{n}"), where, "", 60.0)
    last = Where(users[1], parse_url("https://git.example.org/r"), (), "default", "")
    following.follow(("default", "other"), last, "", 60.0)
    running = []
    while (found := following._next()) is not None:
        found.running = True
        running.append(found.where.user)
    assert running.count(users[0]) == 3
    assert running.count(users[1]) == 1


def test_a_clone_that_nobody_uses_goes(following: SourceFollowing, repo: Repo, tmp_path: Path) -> None:
    repo.commit({"a.yaml": "a"})
    where = Where(None, parse_url(repo.url), (), "default", "")
    following.follow(("default", "a"), where, "", 60.0)
    following.step()
    following.tidy()
    assert len(list((tmp_path / "sources").glob("*/*.git"))) == 1
    following.forget(("default", "a"))
    following.tidy()
    assert not list((tmp_path / "sources").glob("*/*.git"))


@pytest.fixture
def watch() -> Iterator[tuple[DirectoryWatch, list[str]]]:
    found, told = DirectoryWatch(), []
    found.begin(lambda namespace, name: told.append(name))
    worker = threading.Thread(target=found.run, daemon=True)
    worker.start()
    yield found, told
    found.close()
    worker.join(PATIENCE)
    assert not worker.is_alive()


def test_a_save_is_noticed(watch: tuple[DirectoryWatch, list[str]], tmp_path: Path) -> None:
    found, told = watch
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        found.watch(("default", name), str(tmp_path / name), ("", "deep"))
    eventually(lambda: {"one", "two"} <= set(told))

    def noticed() -> set[str]:
        """What is told after another save. The watches may only just begin: each Source is told then once more."""
        told.clear()
        (tmp_path / "one" / "deep" / "a.yaml").write_text("a")
        poll(lambda: told, 2)
        return set(told)

    eventually(lambda: noticed() == {"one"})


def test_nothing_behind_a_symbolic_link_is_watched(watch: tuple[DirectoryWatch, list[str]], tmp_path: Path) -> None:
    # The daemon of a machine would watch as root what the Source's user cannot read.
    found, told = watch
    for name in ("mine", "others"):
        (tmp_path / name / "deep").mkdir(parents=True)
    (tmp_path / "mine" / "link").symlink_to(tmp_path / "others")
    held = directories.read(str(tmp_path / "mine"), None)
    assert held.directories == ("", "deep")
    found.watch(("default", "mine"), str(tmp_path / "mine"), held.directories)
    eventually(lambda: told)

    def unnoticed() -> bool:
        """Whether nothing is told after a save there. While the watch begins, the Source is told once more."""
        told.clear()
        (tmp_path / "others" / "deep" / "a.yaml").write_text("a")
        (tmp_path / "others" / "a.yaml").write_text("a")
        time.sleep(0.7)
        return not told

    eventually(unnoticed)


def test_a_directory_that_is_made_anew_is_watched_again(
    watch: tuple[DirectoryWatch, list[str]], tmp_path: Path
) -> None:
    found, told = watch
    (tmp_path / "deep").mkdir()
    found.watch(("default", "one"), str(tmp_path), ("", "deep"))
    file = tmp_path / "deep" / "a.yaml"

    def is_noticed() -> bool:
        """Whether a save is told."""
        told.clear()
        file.write_text("a")
        return bool(poll(lambda: told, 2))

    # Several times, since the Source is told by itself once or twice while a watch begins.
    for _ in range(4):
        eventually(is_noticed)
    file.unlink()
    (tmp_path / "deep").rmdir()
    (tmp_path / "deep").mkdir()
    for _ in range(4):
        eventually(is_noticed)


def test_too_many_directories_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cumulus.gitops.directory.MOST_DIRECTORIES", 3)
    for n in range(3):
        (tmp_path / str(n)).mkdir()
    with pytest.raises(SourceUnreadable, match="holds more than 3 directories"):
        directories.read(str(tmp_path), None)


def test_a_file_that_is_being_written_deletes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    def told() -> None:
        cluster.room.directories._changed("default", "cluster")

    both = f"{job('a', suspend='true')}---\n{job('b', suspend='true')}"
    (tmp_path / "m").mkdir()
    file = tmp_path / "m" / "all.yaml"
    file.write_text(both)
    (tmp_path / "m" / "c.yaml").write_text(job("c", suspend="true"))
    cluster.add(directory=tmp_path / "m", prune="Auto")
    cluster.sync()
    uids = [cluster.get(name)["metadata"]["uid"] for name in "abc"]
    for written in ("", both[: both.index("---")], job("a", command="oth", suspend="true")):
        file.write_text(written)
        told()
        cluster.sync(seconds=1.0)
        assert [cluster.get(name)["metadata"]["uid"] for name in "abc"] == uids
    file.write_text(both)
    told()
    cluster.sync(seconds=10.0)
    assert [cluster.get(name)["metadata"]["uid"] for name in "abc"] == uids
    # What is written to its end counts.
    file.write_text(job("a", suspend="true"))
    told()
    cluster.sync(seconds=10.0)
    assert cluster.names() == ["a", "c"]


def test_a_repository_that_breaks_its_reader_stops_no_other(
    following: SourceFollowing, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.commit({"a.yaml": "a"})
    where = Where(None, parse_url(repo.url), (), "default", "")
    following.follow(("default", "a"), where, "", 60.0)
    with monkeypatch.context() as broken:
        broken.setattr(Repository, "look", lambda *_: int("x"))
        assert following.step()
    with pytest.raises(SourceUnreadable, match="cannot be read: invalid literal"):
        following.follow(("default", "a"), where, "", 60.0)
    following.now(("default", "a"))
    assert following.step()
    assert following.follow(("default", "a"), where, "", 60.0) is not None


def test_what_is_no_range_of_versions_is_refused(cluster: Cluster, repo: Repo) -> None:
    from cumulus.errors import InvalidObject

    for wanted in ("foo", ">>1", "1.0 ||", "^"):
        with pytest.raises(InvalidObject, match="is not a range of versions"):
            cluster.add(url=repo.url, semver=wanted)


def test_a_directory_is_kept_equal_to(cluster: Cluster, tmp_path: Path) -> None:
    place = tmp_path / "manifests"
    place.mkdir()
    (place / "a.yaml").write_text(job("a", suspend="true"))
    cluster.add(directory=place, prune="Auto")
    cluster.sync()
    assert cluster.names() == ["a"]
    (place / "b.yaml").write_text(job("b", suspend="true"))
    cluster.room.directories._changed("default", "cluster")
    cluster.sync()
    assert cluster.names() == ["a", "b"]
    (place / "b.yaml").unlink()
    # Also where nothing tells of it.
    cluster.sync(seconds=400)
    assert cluster.names() == ["a"]
    place.rename(tmp_path / "away")
    cluster.sync(seconds=400)
    assert cluster.condition("Ready") == ("False", "FetchFailed")
    assert cluster.names() == ["a"]


def test_links_and_pipes_of_a_directory_are_left_out(tmp_path: Path) -> None:
    import os

    (tmp_path / "a.yaml").write_text("a")
    (tmp_path / "link.yaml").symlink_to("/etc/passwd")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.yaml")
    assert directories.read(str(tmp_path), None) == ({"a.yaml": b"a"}, ("",))
    (tmp_path / "huge.yaml").write_bytes(b"x" * (4 * 2**20 + 1))
    with pytest.raises(SourceUnreadable, match=r"huge\.yaml is larger than 4 MiB"):
        directories.read(str(tmp_path), None)
