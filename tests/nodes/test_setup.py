"""What a worker gets: the wheel, the script, and both by way of `install`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.nodes import distribution, packages
from cumulus.nodes.connection import NodeConnection
from cumulus.nodes.host_keys import KnownHosts, fetch
from cumulus.nodes.install import Setup, SetupFailed, install
from tests.chronos.conftest import end_monitor
from tests.nodes.conftest import ROOT, Worker
from tests.waiting import PATIENCE, eventually

SCRIPT = ROOT / "scripts" / "setup-worker.sh"


def set_up(*words: str, code: int = 0, **variables: str) -> str:
    environment = {**os.environ, "PYTHON": sys.executable, **variables}
    environment.pop("CHRONOS_HOME", None)
    done = subprocess.run(
        ["sh", str(SCRIPT), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment,
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def prefix(tmp_path: Path) -> Iterator[Path]:
    """Where a worker's part is installed for one user. Its monitor is ended."""
    yield tmp_path / "chronos"
    end_monitor(tmp_path / "chronos/var/chronos")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution cumulus-chronos, built as `cumulus node setup` does."""
    return distribution.build(tmp_path_factory.mktemp("wheel"))


def test_the_same_source_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    assert distribution.build(tmp_path).read_bytes() == wheel.read_bytes()


def test_the_wheel_has_all_of_chronos_and_what_it_stands_on(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = ROOT / "cumulus"
    wanted = [path for part in ("chronos", "lib") for path in (package / part).rglob("*.py")]
    assert {str(path.relative_to(ROOT)) for path in wanted} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith("cumulus/nodes")]


def test_the_wheel_is_built_from_the_source_tree_by_standard_tools(wheel: Path, tmp_path: Path) -> None:
    """`pip wheel packaging/chronos`, here from a copy: it leaves files beside the project."""
    (tmp_path / "packaging").mkdir()
    shutil.copytree(ROOT / "packaging/chronos", tmp_path / "packaging/chronos", symlinks=True)
    (tmp_path / "cumulus").symlink_to(ROOT / "cumulus")
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run(
        [*words, "--wheel-dir", tmp_path, tmp_path / "packaging/chronos"],
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    (built,) = tmp_path.glob("*.whl")
    assert built.name == wheel.name
    with zipfile.ZipFile(built) as one, zipfile.ZipFile(wheel) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())


def test_the_wheel_runs_with_the_standard_library_alone(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "unpacked")
    modules = [
        name.removesuffix(".py").replace("/", ".") for name in names if re.fullmatch(r"cumulus/[a-z_/]+\.py", name)
    ]
    assert "cumulus.chronos.cli" in modules
    wanted = [name.removesuffix(".__init__") for name in modules if not name.endswith("__main__")]
    # What is put on jobs' PYTHONPATH is found there.
    places = [str(tmp_path / "unpacked"), str(tmp_path / "unpacked/cumulus/chronos/enforce/hook")]
    program = f"import sys; sys.path[:0] = {places!r}; [__import__(m) for m in {wanted!r}]"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


def test_what_reaches_s3_comes_along(tmp_path: Path) -> None:
    archive = tmp_path / "packages.zip"
    assert packages.pack(archive)
    first = archive.read_bytes()
    assert packages.pack(archive)
    assert archive.read_bytes() == first
    assert len(first) < 6 * 2**20
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "unpacked")
    program = (
        f"import sys; sys.path[:0] = [{str(tmp_path / 'unpacked')!r}]; import boto3\n"
        "client = boto3.client('s3', region_name='x', aws_access_key_id='a', aws_secret_access_key='b')\n"
        "print(client.meta.service_model.service_name, boto3.__file__)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.startswith(f"s3 {tmp_path}"), done.stderr


_SMI = """#!/bin/sh
echo "GPU-00000000-0000-0000-0000-000000000000, A GPU, 81920, 580.1, 00000000:01:00.0"
"""


def test_chronos_cli_works_in_an_environment_that_has_nothing_else(wheel: Path, tmp_path: Path) -> None:
    fresh, tools, home = tmp_path / "fresh", tmp_path / "tools", tmp_path / "home"
    venv.create(fresh)
    words = [sys.executable, "-m", "pip", "--python", fresh / "bin/python", "install", "--quiet"]
    subprocess.run([*words, "--no-deps", "--no-index", wheel], check=True, capture_output=True, timeout=PATIENCE)
    tools.mkdir()
    (tools / "nvidia-smi").write_text(_SMI)
    (tools / "nvidia-smi").chmod(0o755)
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "CHRONOS_HOME": str(home), "CHRONOS_MPS": "off"}

    def chronos(*arguments: str) -> str:
        done = subprocess.run(
            [fresh / "bin/chronos_cli", *arguments],
            capture_output=True, text=True, timeout=PATIENCE, env=environment, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        id = chronos("create", "0", "0.5", "60s", "-q").strip()
        assert id in chronos("list")
        assert "has ended" in chronos("release", id, "--wait")
        # What these commands import comes from the wheel and from the standard library.
        program = (
            "import sys; from cumulus.chronos.cli import main\n"
            "code = [main(words.split()) for words in ('list --all', 'stats', 'create 0 10% 60 -q', 'devices')]\n"
            "files = [m.__file__ for n, m in sys.modules.items() if n.partition('.')[0] not in sys.stdlib_module_names"
            " and getattr(m, '__file__', None)]\n"
            "print(code, sorted(f for f in files if not f.startswith(sys.prefix + '/lib/')), file=sys.stderr)"
        )
        done = subprocess.run(
            [fresh / "bin/python", "-I", "-c", program],
            capture_output=True, text=True, timeout=PATIENCE, env=environment,
        )  # fmt: skip
        assert done.stderr.splitlines()[-1] == "[0, 0, 0, 0] []", done.stderr
    finally:
        end_monitor(home)


def test_the_script_says_what_it_will_do_and_does_it_once(prefix: Path, wheel: Path) -> None:
    said = set_up("--prefix", str(prefix), "--dry-run", "--wheel", str(wheel))
    assert "install Chronos" in said
    assert not prefix.exists()
    assert "give --yes" in set_up("--prefix", str(prefix), "--wheel", str(wheel), code=1)
    # These two build what they install, as the script does where it lies in the source tree.
    assert "Chronos is ready." in set_up("--prefix", str(prefix), "--yes")
    assert "nothing is to be changed" in set_up("--prefix", str(prefix), "--yes")
    chronos = [str(prefix / "bin/chronos_cli")]
    granted = subprocess.run(
        [*chronos, "create", "0", "10%", "60", "-q"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert granted.returncode == 0, granted.stderr
    listed = subprocess.run([*chronos, "list"], capture_output=True, text=True, timeout=PATIENCE, cwd="/")
    assert granted.stdout.strip() in listed.stdout


def test_another_version_replaces_the_first_and_its_monitor(prefix: Path, wheel: Path, tmp_path: Path) -> None:
    set_up("--prefix", str(prefix), "--yes", "--wheel", str(wheel))
    home = prefix / "var/chronos"
    first = (home / "monitor.pid").read_text()
    other = tmp_path / "other.whl"
    shutil.copyfile(wheel, other)
    with zipfile.ZipFile(other, "a") as archive:
        archive.writestr("cumulus/other.txt", "another version")
    said = set_up("--prefix", str(prefix), "--yes", "--wheel", str(other))
    assert "in place of" in said
    assert (prefix / "lib/chronos/current/cumulus/other.txt").is_file()
    assert (home / "monitor.pid").read_text() != first


def test_nothing_of_the_caller_decides_what_runs(prefix: Path, wheel: Path, tmp_path: Path) -> None:
    """What sudo starts must not load modules from the caller's directory or variables."""
    set_up("--prefix", str(prefix), "--yes", "--wheel", str(wheel))
    trap = tmp_path / "trap/cumulus"
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text("raise SystemExit('trapped')")
    done = subprocess.run(
        [str(prefix / "bin/chronos_cli"), "list"], capture_output=True, text=True, timeout=PATIENCE,
        cwd=trap.parent, env={**os.environ, "PYTHONPATH": str(trap.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--user", "nobody", "--prefix", "/tmp/x"), "for an installation by root"),
        (("--what",), "--user NAME    let this user"),
    ],
)
def test_wrong_usage(words: tuple[str, ...], said: str) -> None:
    assert said in set_up(*words, code=2 if words == ("--what",) else 1)


def test_a_python_that_is_too_old_is_not_taken(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "dirname", "readlink", "mktemp", "rm"):
        (tools / name).symlink_to(shutil.which(name) or name)
    (tools / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tools / "python3").chmod(0o755)
    assert "Python 3.11 or newer is needed" in set_up("--prefix", "/nowhere", code=1, PYTHON="", PATH=str(tools))


@pytest.mark.ssh
def test_chronos_is_carried_over_and_answers(worker: Worker, known_hosts: KnownHosts, prefix: Path) -> None:
    known_hosts.add(worker.address, fetch(worker.address, 5))
    connection = NodeConnection("gpu-1", worker.address, known_hosts, key_path=worker.key_path)
    said = install(connection, Setup(str(prefix), sys.executable))
    assert "Chronos is ready." in said
    assert '"leases": []' in connection.run(f"{prefix}/bin/chronos_cli list --json", 15).output
    # Other tests' set-ups come and go meanwhile.
    look = "ls /tmp/tmp.*/setup-worker.sh 2>/dev/null; true"
    eventually(lambda: "setup-worker.sh" not in connection.run(look, 15).output, what="what was carried over is gone")
    connection.close()


@pytest.mark.ssh
def test_what_goes_wrong_there_is_told(worker: Worker, known_hosts: KnownHosts) -> None:
    known_hosts.add(worker.address, fetch(worker.address, 5))
    connection = NodeConnection("gpu-1", worker.address, known_hosts, key_path=worker.key_path)
    with pytest.raises(SetupFailed, match=r"gpu-1 could not be set up: .*/proc/nowhere"):
        install(connection, Setup("/proc/nowhere", sys.executable))
    connection.close()
