"""containers/Dockerfile: what a build is given, in every run; with `-m image`, the image that it makes, and jobs in it.

That takes minutes and package servers, but no registry.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from docker.utils.build import exclude_paths

from cumulus.backends.swarm.environment import engine_environment
from cumulus.chronos.contract import variables
from cumulus.chronos.enforce import opencl_layer
from tests.commands import CHRONOS_CLI
from tests.lab.lab import Lab
from tests.swarm.builder import BASE, ROOT, Builder, builder
from tests.swarm.control import Control
from tests.swarm.test_backend import lease
from tests.swarm.test_environment import workload
from tests.swarm.test_examples import forget_checkpoint

IMAGE, AGAIN = "cumulus-job:built", "cumulus-job:again"


def image(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.docker(pytest.mark.image(pytest.mark.timeout(1800)(test)))


# ---- what a build is given ----


def test_whatever_is_taken_is_in_the_context() -> None:
    text = (ROOT / "containers/Dockerfile").read_text()
    assert re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE) == [". /given"]
    [taken] = re.findall(r"\bmv (pyproject.toml .+) /source;", text)
    sources = taken.split()
    files = context()
    assert "cumulus" in sources
    for source in sources:
        assert source in files or any(path.startswith(f"{source}/") for path in files), source


def test_nothing_that_was_made_here_is_in_the_context(tmp_path: Path) -> None:
    """It would be in the image but not in its tag."""
    made = (
        "cumulus/chronos/enforce/lib/x.so",
        "cumulus/__pycache__/x.cpython-311.pyc",
        "cumulus/x.pyc",
        ".git/config",
        "build/x.py",
    )
    for path in (*made, "cumulus/py.typed", "pyproject.toml"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert context(tmp_path) == {"cumulus/py.typed", "pyproject.toml"}


def test_the_tag_is_another_when_anything_in_the_context_is(tmp_path: Path) -> None:
    for path in (*context(), "containers/tag.sh", "containers/Dockerfile"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, tmp_path / path)
    seen = {tag(tmp_path)}
    (tmp_path / "cumulus" / "__pycache__").mkdir()
    (tmp_path / "cumulus" / "__pycache__" / "x.pyc").touch()
    os.utime(tmp_path / "README.md", (0, 0))
    assert {tag(tmp_path)} == seen
    for path in ("README.md", "pyproject.toml", "containers/runner.py", "cumulus/chronos/enforce/opencl/layer.c"):
        with (tmp_path / path).open("a") as file:
            file.write("# changed\n")
        assert tag(tmp_path) not in seen
        seen.add(tag(tmp_path))


def test_a_build_in_the_directory_of_the_dockerfile_is_sent_a_wheel_and_the_runner(tmp_path: Path) -> None:
    wheel = "cumulus_gpu-1.0-py3-none-any.whl"
    for name in (wheel, "runner.py", "Dockerfile", "tag.sh"):
        (tmp_path / name).touch()
    assert context(tmp_path, ROOT / "containers/.dockerignore") == {"Dockerfile", wheel, "runner.py"}


def tag(root: Path) -> str:
    command = [str(root / "containers" / "tag.sh")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def context(root: Path = ROOT, ignore: Path = ROOT / ".dockerignore") -> set[str]:
    """Files that a build is sent, by .dockerignore as docker reads it."""
    patterns = [line for line in ignore.read_text().splitlines() if line and line[0] != "#"]
    return {path for path in exclude_paths(str(root), patterns) if (root / path).is_file()}


# ---- the image, built where no registry is reachable, and jobs in it ----


@pytest.fixture(scope="module")
def engine() -> Iterator[Builder]:
    with builder() as made:
        made.make_base()
        made.build(IMAGE)
        yield made


@image
def test_it_is_built_to_the_same_layers_again(engine: Builder) -> None:
    engine.build(AGAIN, "--no-cache")
    assert engine.layers(AGAIN) == engine.layers(IMAGE)


@image
def test_it_is_built_in_its_own_directory_from_a_wheel(engine: Builder, tmp_path: Path) -> None:
    """What the image holds is the same, but for where pip says it was installed from."""
    place = tmp_path / "containers"
    place.mkdir()
    for name in ("Dockerfile", ".dockerignore", "runner.py"):
        shutil.copy(ROOT / "containers" / name, place)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", place, ROOT], check=True)
    options = ("--network=host", f"--build-arg=BASE={BASE}")
    engine.docker("build", *options, "-t", "cumulus-job:latest", ".", directory=place, timeout=600)
    code = tmp_path / "code"
    code.mkdir()
    (code / "main.py").write_text("import cumulus, os; print('runs in', os.getcwd(), cumulus.__version__)")
    assert "runs in /job" in engine.run("-v", f"{code}:/job", "cumulus-job:latest")


@image
def test_a_variant_that_is_none_is_refused(engine: Builder) -> None:
    with pytest.raises(AssertionError, match="VARIANT is base, torch, jax or tensorflow, not cuda"):
        engine.build(AGAIN, "--build-arg=VARIANT=cuda")


@image
def test_its_own_command_shows_an_opencl_device_to_a_user_without_rights(engine: Builder) -> None:
    said = engine.run(IMAGE)
    assert "pyopencl.Device" in said
    assert said.strip().endswith("exit code 0")
    assert "uid=1000(job) gid=1000(job)" in engine.run(IMAGE, "id")
    engine.run(IMAGE, "sh", "-c", "touch /state/x /work/x && ! touch /opt/cumulus/x")
    assert "cumulus" in engine.run(IMAGE, "cumulus", "version")


@image
@pytest.mark.parametrize(("command", "code"), [("exit 7", 7), ("kill -9 $$", 137)])
def test_it_ends_as_its_command(engine: Builder, command: str, code: int) -> None:
    engine.run(IMAGE, "sh", "-c", command, code=code)


@image
def test_its_layer_holds_a_job_to_a_lease_and_the_node_ends_it_with_a_checkpoint(
    engine: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.docker("create", "--name=layer", "--network=none", IMAGE)
    engine.docker("cp", f"layer:/usr/local/lib/cumulus/{opencl_layer.LIBRARY.file}", str(tmp_path))
    for name, value in {
        "CHRONOS_HOME": str(tmp_path / "chronos"), "CHRONOS_OFFER_CPU": "1", "CHRONOS_MONITOR_IDLE": "1",
        variables.OPENCL_LAYER: str(tmp_path / opencl_layer.LIBRARY.file),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    kept = tmp_path / "kept"
    kept.mkdir()
    kept.chmod(0o777)
    job = """
import pathlib, time, pyopencl
context = pyopencl.create_some_context(interactive=False)
print("bytes", context.devices[0].global_mem_size)
held = pyopencl.Buffer(context, pyopencl.mem_flags.READ_WRITE, 40 << 20)
try:
    pyopencl.Buffer(context, pyopencl.mem_flags.READ_WRITE, 40 << 20)
except pyopencl.Error as error:
    print("refused", error)
pathlib.Path("/state/step").write_text("41")
time.sleep(60)
"""
    words = [*leased("64Mi", "10s"), f"--mount=type=bind,source={kept},target=/kept", IMAGE, "python", "-c", job]
    said = engine.run("--init", *words, code=143)
    assert f"bytes {64 << 20}" in said
    assert "refused create_buffer failed: MEM_OBJECT_ALLOCATION_FAILURE" in said
    assert "kept its state in /kept/state" in said
    assert "its lease is over, SIGTERM" in said
    assert (kept / "state" / "step").read_text() == "41"


def leased(memory: str, duration: str) -> list[str]:
    """A lease on this machine's CPU, and what the Swarm's backend gives a container in it, as docker's options."""
    granted = json.loads(chronos("create", "0", memory, duration, "--json"))["lease"]
    prepared = json.loads(chronos("prepare", granted["partitionId"], "--json"))["variables"]
    held = lease(
        granted["partitionId"], device_id=granted["deviceId"], device_type="cpu", expires_at=granted["expiresAt"]
    )
    variables, mounts = engine_environment(workload(leases=(held,), checkpoint_path="/kept/state"), prepared)
    binds = [f"type=bind,source={m['Source']},target={m['Target']}" + ",readonly" * m["ReadOnly"] for m in mounts]
    return [*(f"--env={n}={v}" for n, v in variables.items()), *(f"--mount={bind}" for bind in binds)]


def chronos(*words: str) -> str:
    command = [CHRONOS_CLI, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@image
def test_the_examples_run_in_it_on_a_swarm(engine: Builder, swarm: Lab, control: Control, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    engine.docker("save", f"--output={archive}", IMAGE, timeout=300)
    swarm.nodes["worker1"].docker("load", f"--input={archive}", timeout=300)
    archive.unlink()
    forget_checkpoint(swarm)
    try:
        for name in ("container", "checkpoint"):
            [example] = yaml.safe_load_all((ROOT / "manifests" / "swarm" / f"{name}.yaml").read_text())
            example["spec"]["image"] = IMAGE
            example["spec"]["gpu"]["selector"] = {"nodeLabels": {"place": "worker1"}}
            control.apply(example)
            control.ok("wait", f"gpujob/{name}", "--for=condition=Succeeded", "--timeout=200s", timeout=220)
        assert "product: 262144" in control.ok("logs", "container")
        reasons = [attempt["reason"] for attempt in control.attempts("checkpoint")]
        assert reasons == [*["LeaseExpired"] * (len(reasons) - 1), "Completed"]
        assert len(reasons) > 1
        assert "goes on from /shared/cumulus-example-checkpoint" in control.ok("logs", "checkpoint")
    finally:
        forget_checkpoint(swarm)
