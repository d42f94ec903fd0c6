"""Options in scripts and in a person's defaults."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cumulus.cli import script_options
from cumulus.errors import UsageError
from tests.cli.conftest import Run


def script(place: Path, *lines: str, executable: bool = True) -> str:
    file = place / "train.sh"
    file.write_text("\n".join(["#!/bin/bash -e", *lines, "echo run", "#CUMULUS --gpu 99%"]) + "\n")
    file.chmod(0o755 if executable else 0o644)
    return "train.sh"


@pytest.mark.parametrize(
    ("line", "scalars"),
    [
        ("#CUMULUS --gpu 25% --for=2h", {"gpu": "25%", "duration": "2h"}),
        ("#SBATCH --time=90", {"duration": "5400s"}),
        ("#SBATCH -t 1-2:30", {"duration": "95400s"}),
        ("#SBATCH --time=2:00:00 --gres=gpu:a100:2", {"duration": "7200s", "gpus": "2"}),
        ("#SBATCH -J 'My Job!' -c4 --mem=16G", {"base": "my-job", "cpus": "4", "memory": "16Gi"}),
        ("#SBATCH --mem 512", {"memory": "512Mi"}),
        ("#SBATCH --nodes=2 --ntasks=8", {"replicas": "8"}),
        ("#SBATCH -d afterok:prepare:fetch", {"after": "prepare,fetch"}),
        ("#SBATCH --array=0-15%4", {"array": "0-15%4"}),
        ("#CUMULUS --values a,b --preemptible Kill", {"values": "a,b", "preemptible": "Kill"}),
        ("#SBATCH --gpus-per-node=1  # one", {"gpus": "1"}),
        ("#SBATCHED --time=1", None),
        ("# SBATCH --time=1", None),
    ],
)
def test_what_a_line_says(tmp_path: Path, line: str, scalars: dict[str, str] | None) -> None:
    found = script_options.of_script([script(tmp_path, "# about it", line)], str(tmp_path), "/bin")
    assert (found.scalars if found else None) == scalars


def test_what_has_no_meaning_is_named_and_what_is_so_anyway_is_not(tmp_path: Path) -> None:
    lines = ["#SBATCH --partition=gpu -A me --requeue", "#SBATCH --output=x.log", "#SBATCH --exclusive --mail-type=END"]
    found = script_options.of_script([script(tmp_path, *lines)], str(tmp_path), "/bin")
    assert found is not None
    assert found.left_out == ("--partition", "--account", "--output", "--mail-type")


def test_how_it_is_started(tmp_path: Path) -> None:
    name = script(tmp_path, "#CUMULUS --gpu 1Gi")
    assert script_options.of_script([name, "-x"], str(tmp_path), "/bin")[2] == ("./train.sh", "-x")  # type: ignore[index]
    script(tmp_path, "#CUMULUS --gpu 1Gi", executable=False)
    started = script_options.of_script([f"{tmp_path}/{name}"], "/", "/bin")
    assert started is not None
    assert started.words == ("/bin/bash", "-e", f"{tmp_path}/train.sh")
    assert script_options.of_script(["echo"], str(tmp_path), "/bin") is None
    assert script_options.of_script([], str(tmp_path), "/bin") is None
    # What lies in a directory takes no program's place, and is not waited for.
    (tmp_path / "train.sh").rename(tmp_path / "sh")
    assert script_options.of_script(["sh"], str(tmp_path), "/bin") is None
    os.mkfifo(tmp_path / "pipe")
    assert script_options.of_script(["./pipe"], str(tmp_path), "/bin") is None


@pytest.mark.parametrize(
    "line", ["#CUMULUS --gup 1", "#CUMULUS 25%", "#CUMULUS --gpu", "#SBATCH --time=soon", "#CUMULUS '"]
)
def test_what_is_wrong_has_its_line(tmp_path: Path, line: str) -> None:
    with pytest.raises(UsageError, match=r"^train\.sh:2: "):
        script_options.of_script([script(tmp_path, line)], str(tmp_path), "/bin")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--time=soon", "--time 'soon' is not understood"),
        ("--mem=lots", "--mem 'lots' is not understood"),
        ("-c", "--cpus-per-task '' is not understood"),
        ("-n many", "--ntasks 'many' is not understood"),
        ("-N few", "--nodes 'few' is not understood"),
        ("-d afterany:x", "--dependency 'afterany:x' is not understood"),
    ],
)
def test_what_is_not_understood_is_told_with_what_would_be(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        script_options.of_script([script(tmp_path, f"#SBATCH {line}")], str(tmp_path), "/bin")
    assert str(raised.value) == f"train.sh:2: {said}"
    assert (raised.value.hint or "").startswith("write ")


def test_a_script_that_starts_elsewhere_is_found_from_there(tmp_path: Path) -> None:
    name = script(tmp_path, "#SBATCH -D /tmp --gres=gpu:1", executable=False)
    found = script_options.of_script([name, "-x"], str(tmp_path), "/bin")
    assert found is not None
    assert (found.directory, found.words) == ("/tmp", ("/bin/bash", "-e", f"{tmp_path}/train.sh", "-x"))


def test_options_that_cannot_be_read_are_told_in_a_persons_words(tmp_path: Path) -> None:
    (tmp_path / "run.options").mkdir()
    with pytest.raises(UsageError, match=r"run\.options cannot be read: Is a directory$"):
        script_options.defaults(tmp_path / "run.options")
    (tmp_path / "other").write_bytes(b"--for \xff")
    with pytest.raises(UsageError, match=r"other is not UTF-8 text$"):
        script_options.defaults(tmp_path / "other")


def test_an_option_that_is_none_lacks_no_value(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no option --gup here"):
        script_options.of_script([script(tmp_path, "#CUMULUS --gup")], str(tmp_path), "/bin")


def test_what_is_typed_wins(home: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path), "/bin")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cumulus").mkdir()
    (tmp_path / "cumulus" / "run.options").write_text("# mine\n--for 3h --retry 2\n-e A=default -e B=default\n")
    name = script(tmp_path, "#CUMULUS --gpu 25% --for 2h -e A=script", "#SBATCH --partition=x -J fit --mem=1G")
    words = ["--gpu", "10%", "--secret-env", "TOKEN=hub/token", "--secret-env", "KEY=hub", "--dry-run", "-o", "json"]
    done = run("run", *words, name, "--lr", "1")
    job = json.loads(done.out)
    spec = job["spec"]
    assert job["metadata"]["name"].startswith("fit-")
    assert spec["command"] == ["./train.sh", "--lr", "1"]
    assert (spec["gpu"], spec["retry"]) == ({"memory": "10%", "duration": "2h"}, {"limit": 2})
    assert spec["resources"] == {"memory": "1Gi"}
    variables = {each["name"]: each.get("value", each.get("valueFrom")) for each in spec["env"]}
    assert (variables["A"], variables["B"]) == ("script", "default")
    assert variables["TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert variables["KEY"] == {"secretKeyRef": {"name": "hub", "key": "KEY"}}
    assert "Of #SBATCH these have no meaning here, and are left out: --partition." in done.err
    assert run("run", "--secret-env", "TOKEN", "true").code == 2
