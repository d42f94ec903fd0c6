"""pyopencl's own tests in a guarded lease, beside the same without one, test by test. They are not in its wheel:
`PYOPENCL_TESTS` names the directory `test` of its source."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cumulus.chronos.contract.variables import MPS_MODE, merge

from .conftest import Node

Measured = Callable[[str, object], None]


@pytest.mark.slow
@pytest.mark.timeout(590)
def test_pyopencls_own_tests_go_as_without_a_lease(
    node: Node, nvidia_opencl: dict[str, str], tmp_path: Path, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = os.environ.get("PYOPENCL_TESTS")
    if source is None:
        pytest.skip("PYOPENCL'S OWN TESTS ARE LEFT OUT: PYOPENCL_TESTS names no directory")
    monkeypatch.setenv(MPS_MODE, "off")
    lease = node.lease("part", 0.2)
    ours = {name: nvidia_opencl[name] for name in ("OCL_ICD_VENDORS", MPS_MODE)}
    one = {"CUDA_VISIBLE_DEVICES": node.gpu.id}
    sides = {"bare": {**ours, **one}, "leased": {**lease, **ours}}
    running = {name: start(Path(source), tmp_path / name, side) for name, side in sides.items()}
    for process in running.values():
        process.wait()
    bare, leased = (outcomes(tmp_path / name / "results.xml") for name in sides)
    measured("pyopencl's tests, bare and in a lease", [dict(Counter(found.values())) for found in (bare, leased)])
    names = {**bare, **leased}
    differ = {name: (bare.get(name), leased.get(name)) for name in names if bare.get(name) != leased.get(name)}
    measured("those that went otherwise", differ)
    measured("those that failed bare", [name for name, how in bare.items() if how == "failed"])
    assert len(bare) > 100
    assert not differ


def start(source: Path, place: Path, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    shutil.copytree(source, place)
    command = [sys.executable, "-m", "pytest", "-q", "-n3", "-p", "no:cacheprovider", f"--rootdir={place}"]
    command += ["--timeout=200", f"--junitxml={place / 'results.xml'}", str(place)]
    with (place / "log").open("wb") as log:
        return subprocess.Popen(
            command, cwd=place, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env=merge(os.environ, variables),
        )  # fmt: skip


def outcomes(results: Path) -> dict[str, str]:
    found = {}
    for case in ElementTree.parse(results).iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        how = "failed" if kinds & {"failure", "error"} else "skipped" if kinds else "passed"
        found[f"{case.get('classname')}::{case.get('name')}"] = how
    return found
