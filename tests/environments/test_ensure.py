"""Environments as nodes build them: with pip and uv, once, whole, and as the right user."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cumulus.environments import ensure as module
from cumulus.environments.cache import EnvironmentCache
from cumulus.environments.document import EnvironmentDocument
from cumulus.environments.ensure import ensure
from cumulus.errors import EnvironmentFailed
from cumulus.lib.unix_user import UnixUser
from tests import unix_users
from tests.environments.packages import PROGRAM, Index

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
UV = shutil.which("uv", path=os.path.dirname(sys.executable))


@pytest.fixture(scope="module")
def index() -> Iterator[Index]:
    with unix_users.open_directory() as directory:
        yield Index(directory / "index")


@pytest.fixture
def make(index: Index, tmp_path: Path) -> Callable[..., str]:
    """`ensure` with that index, and uv where it is asked for."""
    tools = tmp_path / "tools"
    tools.mkdir()

    def make(
        requirements: str, *, hashed: bool = False, uv: bool = True, python: str = PYTHON, **options: object
    ) -> str:
        if uv:
            if UV is None:
                pytest.skip("there is no uv")
            with contextlib.suppress(FileExistsError):
                (tools / "uv").symlink_to(UV)
        variables = {
            **index.variables, "PATH": f"{tools}:/usr/bin:/bin", "UV_CACHE_DIR": str(tmp_path / "uv"),
            "UV_HTTP_RETRIES": "0",
        }  # fmt: skip
        document = EnvironmentDocument(python, requirements, hashed)
        options.setdefault("environment", variables)
        return ensure(document, str(tmp_path / "cache"), **options)  # type: ignore[arg-type]

    return make


def _run(python: str, code: str) -> str:
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd="/").stdout.strip()


@pytest.mark.parametrize("uv", [True, False], ids=["uv", "pip"])
def test_what_is_asked_for_can_be_imported(
    make: Callable[..., str], index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uv: bool
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    said: list[str] = []
    wanted = index.locked("answer", "evil")
    python = make(wanted, hashed=True, uv=uv, say=said.append)
    # Else a package of one user's would be the builder of what others use.
    assert not (tmp_path / "evil-ran").exists(), "the build ran what it installed"
    assert _run(python, "import answer; print(answer.value)") == "42"
    assert (tmp_path / "evil-ran").exists(), "this package runs where it can"
    assert said[-1].startswith("environment: built in ")
    assert said[-1].endswith(" with uv" if uv else " with pip")
    assert [*Path(python).parents[1].rglob("answer.*.pyc")] != []
    # Programs start where the environment lies now, not where it was built.
    program = Path(python).parent / PROGRAM
    assert ".building-" not in program.read_text()
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout.startswith("42 ")
    again: list[str] = []
    assert make(wanted, hashed=True, uv=uv, say=again.append) == python
    assert again == []


def test_a_source_distribution_is_built_as_its_user(make: Callable[..., str]) -> None:
    assert _run(make("built\n"), "import built; print(built.value)") == "42"


def test_a_wrong_hash_installs_nothing(make: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailed, match=r"(?i)hash"):
        make(f"answer==1.0 --hash=sha256:{'0' * 64}\n", hashed=True)
    assert [name for name in os.listdir(tmp_path / "cache") if not name.endswith(".lock")] == []


def test_a_package_that_is_not_there_is_named(make: Callable[..., str]) -> None:
    with pytest.raises(EnvironmentFailed, match="nowhere") as caught:
        make("nowhere==7\n")
    assert "\n" not in str(caught.value)


def test_a_python_that_is_not_there_is_named(make: Callable[..., str]) -> None:
    with pytest.raises(EnvironmentFailed, match=r"no Python 3\.99 on this node"):
        make("answer\n", python="3.99")


def test_an_account_of_an_index_is_not_told(make: Callable[..., str], tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(EnvironmentFailed) as caught:
        make("answer @ http://me:hunter2@127.0.0.1:9/answer-1.0-py3-none-any.whl\n", say=said.append)
    assert "hunter2" not in "\n".join([*said, str(caught.value)])
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert [path for path in kept if b"hunter2" in path.read_bytes()] == []


def test_two_at_once_build_once(make: Callable[..., str], index: Index) -> None:
    said: list[str] = []
    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(make(index.locked("answer"), hashed=True, uv=UV is not None, say=said.append))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert len([line for line in said if "built in" in line]) == 1


def test_what_a_dead_builder_left_is_deleted(make: Callable[..., str], tmp_path: Path) -> None:
    python = make("", uv=True)
    key = Path(python).parents[1].name
    left = tmp_path / "cache" / f".building-{key}-x"
    (left / "deep").mkdir(parents=True)
    Path(python).unlink()
    assert make("", uv=True) == python
    assert os.access(python, os.X_OK)
    assert not left.exists()


def test_the_wait_for_another_builder_is_bounded_and_told(make: Callable[..., str], tmp_path: Path) -> None:
    python = make("")
    key = Path(python).parents[1].name
    Path(python).unlink()
    said: list[str] = []
    with open(tmp_path / "cache" / f"{key}.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(EnvironmentFailed, match=f"process {os.getpid()} .* has been building this environment"):
            make("", patience=0.5, say=said.append)
    assert "waiting" in said[0]


def test_what_check_raises_ends_the_build(make: Callable[..., str], tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def check() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        make("built\n", check=check)
    python = make("built\n")
    assert not [name for name in os.listdir(tmp_path / "cache") if name.startswith(".building")]
    assert _run(python, "import built") == ""


def test_what_nobody_used_is_deleted_and_what_runs_stays(make: Callable[..., str], tmp_path: Path) -> None:
    python = make("")
    cache = EnvironmentCache(str(tmp_path / "cache"), shared=False)
    later = time.time() + 100
    assert cache.collect(later, keep=1000) == []
    code = "print(flush=True); input()"
    with subprocess.Popen([python, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        try:
            assert running.stdout is not None
            running.stdout.readline()
            assert cache.collect(later, keep=10) == []
        finally:
            running.kill()
    assert cache.collect(later, keep=10) == [Path(python).parents[1].name]
    assert os.listdir(tmp_path / "cache") == []


@pytest.mark.users
class TestUsers:
    """Root builds for others. The helper's Python must be one that they can start."""

    @pytest.fixture
    def pair(
        self, users: tuple[unix_users.User, unix_users.User], monkeypatch: pytest.MonkeyPatch
    ) -> tuple[unix_users.User, unix_users.User]:
        """A user whose home is as new, and who builds for all."""
        user, service = users
        user.sh("rm -rf ~/.cache ~/.local ~/built-by")
        monkeypatch.setattr(module, "SERVICE_USER", service.name)
        return user, service

    @pytest.fixture
    def cache(self) -> Iterator[Path]:
        with unix_users.open_directory() as directory:
            yield directory / "environments"

    def test_hashed_wheels_are_shared_and_nobody_can_change_them(
        self, pair: tuple[unix_users.User, unix_users.User], index: Index, cache: Path
    ) -> None:
        user, service = pair
        python = _for(user, EnvironmentDocument(_python(), index.locked("answer"), True), cache, index)
        assert python.startswith(f"{cache}/")
        assert user.sh('"$1" -c "import answer; print(answer.value)"', python).stdout == "42\n"
        environment = Path(python).parents[1]
        found = [environment, *(path for path in environment.rglob("*") if not path.is_symlink())]
        assert {path.stat().st_uid for path in found} == {service.uid}
        assert [path for path in found if path.stat().st_mode & 0o222] == []
        assert user.sh('touch "$1/x"', str(cache)).returncode != 0
        # Their builder deletes it in the end, with the next one that it builds.
        os.utime(cache / f"{environment.name}.lock", (0, 0))
        other = _for(user, EnvironmentDocument(_python(), "# none", True), cache, index)
        assert [path.name for path in cache.iterdir() if path.is_dir()] == [Path(other).parents[1].name]

    def test_what_needs_a_build_is_built_as_the_user_and_is_theirs(
        self, pair: tuple[unix_users.User, unix_users.User], index: Index, cache: Path
    ) -> None:
        user, service = pair
        if UV is not None:  # Seconds faster than pip.
            user.sh("mkdir -p ~/.local/bin")
            shutil.copy(UV, user.home / ".local/bin/uv")
        said: list[str] = []
        python = _for(user, EnvironmentDocument(_python(), index.locked("built"), True), cache, index, said)
        assert python.startswith(f"{user.home}/.cache/cumulus/environments/")
        assert (user.home / "built-by").read_text() == str(user.uid)
        assert (user.home / "built-by").stat().st_uid == user.uid
        assert not (service.home / "built-by").exists()
        assert any(f"building it as {user.name}" in line for line in said)
        assert (user.home / ".cache/cumulus/environments").stat().st_mode & 0o777 == 0o700

    def test_a_link_in_the_users_home_leads_nowhere_that_they_could_not_go(
        self, pair: tuple[unix_users.User, unix_users.User], index: Index, cache: Path
    ) -> None:
        user, _ = pair
        cache.mkdir(mode=0o700)
        user.sh('mkdir -p ~/.cache/cumulus && ln -s "$1" ~/.cache/cumulus/environments', str(cache))
        with pytest.raises(EnvironmentFailed, match=r"Permission denied|File exists"):
            _for(user, EnvironmentDocument(_python(), ""), cache, index)
        assert os.listdir(cache) == []

    def test_no_account_of_the_daemons_reaches_a_users_build(self) -> None:
        told = module.told({"PIP_INDEX_URL": "https://me:pw@x/", "UV_INDEX": "https://x/", "TOKEN": "y"}, private=False)
        assert told == {"UV_INDEX": "https://x/"}


def _python() -> str:
    """A Python of the system's: what tests run with may lie in root's home."""
    for version in ("3.11", "3.12", "3.13", "3.10"):
        if os.access(f"/usr/bin/python{version}", os.X_OK):
            return version
    pytest.skip("there is no Python in /usr/bin")


def _for(
    user: unix_users.User, document: EnvironmentDocument, cache: Path, index: Index, said: list[str] | None = None
) -> str:
    say = (lambda line: None) if said is None else said.append
    return ensure(document, str(cache), UnixUser.find(user.uid), say=say, environment=index.variables)
