"""Repositories over file, https and ssh, with the git program: what is read, and what is not fallen for."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.gitops.errors import SourceUnreadable
from cumulus.gitops.git import Credentials, Repository
from cumulus.gitops.programs import Limits
from cumulus.resources.git_url import parse_url
from cumulus.resources.source import GitSource
from tests.gitops.cluster import Repo
from tests.gitops.https_server import PASSWORD, USER, GitServer, git_server
from tests.nodes.conftest import Worker, client_key

__all__ = ["client_key"]
NOBODY = Credentials()


def opened(url: str, place: Path, limits: Limits = Limits()) -> Repository:
    return Repository(place / "1" / "clone.git", parse_url(url), None, limits)


def read(repository: Repository, url: str, credentials: Credentials = NOBODY, **wanted: str) -> dict[str, bytes]:
    """All manifests of what is wanted."""
    ref, oid = repository.look(GitSource(url=url, **wanted), credentials)
    commit = repository.fetch(ref, oid, credentials)
    files = repository.files(repository.trees(commit, [""])[""])
    return repository.read(files, credentials) if files else {}


@pytest.fixture
def content(repo: Repo) -> Repo:
    repo.git("config", "uploadpack.allowFilter", "true")
    repo.commit({"a.yaml": "a", "team/b.yml": "b", "team/.hidden.yaml": "h", ".git2/c.yaml": "c", "README.md": "r"})
    return repo


def test_branches_tags_commits_and_ranges(content: Repo, tmp_path: Path) -> None:
    first = content.head
    for version in ("v1.2.0", "v1.9.1", "v1.10.0", "v2.0.0-rc.1", "v2.1.0", "latest"):
        content.commit({"a.yaml": version})
        content.git("tag", "-m", version, version)
    content.git("tag", "light")
    content.git("checkout", "-q", "-b", "feature/x")
    content.commit({"a.yaml": "x"})
    repository = opened(content.url, tmp_path)

    def a(**wanted: str) -> str:
        return read(repository, content.url, **wanted)["a.yaml"].decode()

    assert a(branch="main") == "latest"
    assert a(branch="feature/x") == "x"
    assert a() == "x"
    assert a(tag="v1.9.1") == "v1.9.1"
    assert a(tag="light") == "latest"
    assert a(commit=first) == "a"
    assert a(semver="^1.2") == "v1.10.0"
    assert a(semver="~1.9.0") == "v1.9.1"
    assert a(semver=">=1.0 <3.0") == "v2.1.0"
    for missing in ({"branch": "none"}, {"tag": "none"}, {"semver": "^9"}):
        with pytest.raises(SourceUnreadable) as caught:
            read(repository, content.url, **missing)
        assert caught.value.reason == "RefNotFound"
    with pytest.raises(SourceUnreadable):
        read(repository, content.url, commit="0" * 40)


def test_manifests_alone_are_read(content: Repo, tmp_path: Path) -> None:
    assert read(opened(content.url, tmp_path), content.url) == {"a.yaml": b"a", "team/b.yml": b"b"}


def test_links_submodules_hooks_and_filters_have_no_effect(content: Repo, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (content.path / "link.yaml").symlink_to("/etc/passwd")
    (content.path / "loop").symlink_to(".")
    content.commit({
        ".gitattributes": "*.yaml filter=evil\n",
        ".gitmodules": f'[submodule "m"]\n\tpath = m\n\turl = ext::touch {marker}\n',
    })  # fmt: skip
    content.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},m")
    content.git("commit", "-q", "-m", "A submodule to elsewhere")
    repository = opened(content.url, tmp_path)
    assert read(repository, content.url) == {"a.yaml": b"a", "team/b.yml": b"b"}
    hook = tmp_path / "1" / "clone.git" / "hooks" / "post-fetch"
    assert not hook.exists()
    assert not marker.exists()
    assert not (tmp_path / "1" / "clone.git" / "index").exists()


def test_a_bomb_of_trees_is_cut_off(content: Repo, tmp_path: Path) -> None:
    """Ten levels, each with ten times the level below: 10^10 files in a few kilobytes."""
    blob = content.git("hash-object", "-w", "a.yaml")
    entry = f"100644 blob {blob}\tx.yaml"
    for _ in range(10):
        lines = "\n".join(entry.replace("\t", f"\t{n}") for n in range(10))
        tree = subprocess.run(
            ["git", "mktree"], cwd=content.path, input=lines, capture_output=True, text=True, check=True
        ).stdout.strip()
        entry = f"040000 tree {tree}\td"
    commit = content.git("commit-tree", tree, "-m", "bomb")
    content.git("update-ref", "refs/heads/main", commit)
    with pytest.raises(SourceUnreadable, match="gave more than 4 MiB"):
        read(opened(content.url, tmp_path, Limits(seconds=30, output=4 * 2**20)), content.url, branch="main")


@pytest.mark.parametrize("depth", [65, 2_000])
def test_a_tree_that_is_too_deep_is_refused(content: Repo, tmp_path: Path, depth: int) -> None:
    """The deeper one also where git itself gives up."""
    deep(content, depth)
    with pytest.raises(SourceUnreadable, match="more than 64 directories deep" if depth < 100 else "deep|git cannot"):
        read(opened(content.url, tmp_path), content.url, branch="deep")


def test_a_tree_that_is_deep_enough_for_anybody(content: Repo, tmp_path: Path) -> None:
    deep(content, 64)
    assert list(read(opened(content.url, tmp_path), content.url, branch="deep").values()) == [b"x"]


def deep(repo: Repo, depth: int) -> None:
    """A commit on the branch `deep` with one manifest below so many directories."""
    said = (
        f"commit refs/heads/deep\ncommitter A <a@b> 0 +0000\ndata 0\nM 100644 inline {'d/' * depth}x.yaml\ndata 1\nx\n"
    )
    subprocess.run(["git", "fast-import", "--quiet"], cwd=repo.path, input=said, text=True, check=True)


def test_a_file_that_is_too_large_is_refused(content: Repo, tmp_path: Path) -> None:
    content.commit({"huge.yaml": "x" * (5 * 2**20)})
    with pytest.raises(SourceUnreadable, match=r"huge\.yaml is larger than 4 MiB"):
        read(opened(content.url, tmp_path), content.url)


def test_a_name_with_control_characters_is_refused(content: Repo, tmp_path: Path) -> None:
    content.commit({"evil\n\x1b[2J.yaml": "a"})
    with pytest.raises(SourceUnreadable, match="control characters") as caught:
        read(opened(content.url, tmp_path), content.url)
    assert str(caught.value).isprintable()


def test_a_pack_that_is_too_large_is_cut_off(content: Repo, tmp_path: Path) -> None:
    (content.path / "noise.yaml").write_bytes(os.urandom(3 * 2**20))
    content.commit({})
    with pytest.raises(SourceUnreadable):
        read(opened(content.url, tmp_path, Limits(file=2**20)), content.url)


def test_a_server_that_does_not_answer_is_left(content: Repo, tmp_path: Path) -> None:
    content.git("config", "uploadpack.packObjectsHook", "sleep 60")
    os.mkfifo(content.path / ".git" / "refs" / "heads" / "fifo")
    with pytest.raises(SourceUnreadable, match="took longer than 1 s"):
        read(opened(content.url, tmp_path, Limits(seconds=1)), content.url)


def test_the_environment_of_the_daemon_is_not_handed_on(
    content: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "gitconfig"
    config.write_text(f'[url "file:///nowhere"]\n\tinsteadOf = {content.url}\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere")
    monkeypatch.setenv("GIT_SSH_COMMAND", "false")
    assert "a.yaml" in read(opened(content.url, tmp_path), content.url)


def test_files_are_fetched_when_they_are_wanted_and_no_earlier(content: Repo, tmp_path: Path) -> None:
    content.commit({"other.bin": "x" * 1000})
    repository = opened(content.url, tmp_path)
    ref, oid = repository.look(GitSource(url=content.url), NOBODY)
    repository.fetch(ref, oid, NOBODY)
    blob = content.git("rev-parse", "HEAD:other.bin")
    assert not repository._has(blob)
    read(repository, content.url)
    assert not repository._has(blob)


@pytest.fixture
def server(content: Repo, tmp_path: Path) -> Iterator[GitServer]:
    with git_server(content.path.parent, tmp_path) as found:
        yield found


def test_https(content: Repo, server: GitServer, tmp_path: Path) -> None:
    good = Credentials(USER, PASSWORD, authority=server.ca.read_bytes())
    url = server.url("repo")
    assert read(opened(url, tmp_path), url, good) == {"a.yaml": b"a", "team/b.yml": b"b"}
    for number, (bad, told) in enumerate([
        (Credentials(USER, "wrong", authority=good.authority), "Authentication failed|could not read"),
        (Credentials(authority=good.authority), "could not read|Authentication failed"),
        (Credentials(USER, PASSWORD), "certificate"),
    ]):  # fmt: skip
        with pytest.raises(SourceUnreadable, match=told) as caught:
            read(opened(url, tmp_path / str(number)), url, bad)
        assert "s3cret" not in str(caught.value)


def test_https_follows_nobody_elsewhere(server: GitServer, tmp_path: Path) -> None:
    good = Credentials(USER, PASSWORD, authority=server.ca.read_bytes())
    server.moved = "http://169.254.169.254"
    with pytest.raises(SourceUnreadable, match=r"redirect|302"):
        read(opened(server.url("repo"), tmp_path), server.url("repo"), good)


def test_an_address_in_the_url_is_asked(tmp_path: Path) -> None:
    # Nobody listens there; that it was tried is what counts.
    url = "https://[::1]:1/r.git"
    with pytest.raises(SourceUnreadable, match=r"[Cc]onnect"):
        read(opened(url, tmp_path), url)


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "0.0.0.0", "[2002:a9fe:a9fe::]",
     "[64:ff9b::a9fe:a9fe]", "[::a9fe:a9fe]"],
)  # fmt: skip
@pytest.mark.parametrize("form", ["https://{}/r.git", "ssh://git@{}/r.git"])
def test_addresses_of_machines_alone_are_refused(host: str, form: str, tmp_path: Path) -> None:
    url = form.format(host)
    with pytest.raises(SourceUnreadable) as caught:
        read(opened(url, tmp_path), url, Credentials(key=b"k", known_hosts=b"h"))
    assert caught.value.reason == "AddressRefused"


@pytest.mark.parametrize(
    "found",
    [["169.254.169.254"], ["192.0.2.7", "169.254.169.254"], ["fe80::1%eth0"], ["192.0.0.192"], ["fd00:ec2::254"]],
)
@pytest.mark.parametrize("form", ["https://{}/r.git", "ssh://git@{}/r.git"])
def test_names_of_such_addresses_are_refused(
    found: list[str], form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one of several addresses is good: which one is asked would be the name server's choice."""

    def resolved(host: str, port: int, **how: object) -> list[tuple[object, ...]]:
        assert host == "git.example.org"
        return [(0, 0, 0, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setattr("cumulus.gitops.git.run", lambda *asked, **how: pytest.fail("git was started"))
    url = form.format("git.example.org")
    with pytest.raises(SourceUnreadable, match="where only machines ask") as caught:
        opened(url, tmp_path).look(GitSource(url=url), Credentials(key=b"k", known_hosts=b"h"))
    assert caught.value.reason == "AddressRefused"


EVIL = {
    "uploadpack": '[remote "origin"]\n\tuploadpack = {}\n',
    "another remote": '[remote "x"]\n\turl = /\n\tpromisor = true\n\tuploadpack = {}\n',
    "alternates": "[core]\n\talternateRefsCommand = {}\n",
    "gpg": "[gpg]\n\tprogram = {}\n",
    "another url": '[remote "origin"]\n\turl = {}\n',
    "included": "[include]\n\tpath = {}\n",
}


@pytest.mark.parametrize("what", EVIL)
@pytest.mark.parametrize("place", ["", "reader"])
def test_a_clone_that_its_user_changed_starts_no_program_and_is_made_anew(
    content: Repo, tmp_path: Path, what: str, place: str
) -> None:
    script = tmp_path / "evil"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    script.chmod(0o755)
    repository = opened(content.url, tmp_path)
    assert "a.yaml" in read(repository, content.url)
    with open(tmp_path / "1" / "clone.git" / place / "config", "a") as config:
        config.write(EVIL[what].format(script))
    with pytest.raises(SourceUnreadable, match="changed the configuration of the clone"):
        repository.descends(content.head, content.head)
    content.commit({"a.yaml": "new"})
    assert read(repository, content.url)["a.yaml"] == b"new"
    assert not (tmp_path / "ran").exists()


def test_programs_that_a_clone_names_are_not_the_ones_that_run(
    content: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its user changes it between the look and the use."""
    script = tmp_path / "evil"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    script.chmod(0o755)
    repository = opened(content.url, tmp_path)
    read(repository, content.url)
    monkeypatch.setattr(Repository, "_is_as_made", lambda self: True)
    for place in ("", "reader"):
        with open(tmp_path / "1" / "clone.git" / place / "config", "a") as config:
            config.write("".join(EVIL[what].format(script) for what in ("uploadpack", "alternates", "gpg")))
    content.commit({"a.yaml": "new"})
    assert read(repository, content.url)["a.yaml"] == b"new"
    with pytest.raises(SourceUnreadable, match="is not signed"):
        repository.verify(content.head, {"gpg-keys": b"none"}, tag=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.ssh
def test_ssh(content: Repo, client_key: Path, tmp_path: Path) -> None:
    worker = Worker(tmp_path / "worker", client_key)
    try:
        address = worker.address
        url = f"ssh://{address.user}@127.0.0.1:{address.port}{content.path}"
        host_key = (worker.directory / "host_key.pub").read_text().split()
        known = f"[127.0.0.1]:{address.port} {host_key[0]} {host_key[1]}\n".encode()
        key = client_key.read_bytes()
        assert "a.yaml" in read(opened(url, tmp_path), url, Credentials(key=key, known_hosts=known))
        with pytest.raises(SourceUnreadable, match="needs a secret with ssh-privatekey and known_hosts"):
            read(opened(url, tmp_path / "none"), url)
        # Another key than the one that is known: the host, or somebody in its place.
        worker.stop()
        worker.make_host_key()
        worker.start()
        with pytest.raises(SourceUnreadable, match="Host key verification failed"):
            read(opened(url, tmp_path / "changed"), url, Credentials(key=key, known_hosts=known))
        other = tmp_path / "other"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
        host_key = (worker.directory / "host_key.pub").read_text().split()
        known = f"[127.0.0.1]:{address.port} {host_key[0]} {host_key[1]}\n".encode()
        with pytest.raises(SourceUnreadable, match=r"Permission denied|Could not read"):
            read(opened(url, tmp_path / "stranger"), url, Credentials(key=other.read_bytes(), known_hosts=known))
    finally:
        worker.stop()
