from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from cumulus.cli import main as command
from cumulus.cli.main import VERBS, load, main
from cumulus.store.sqlite import SqliteStore
from tests.cli.conftest import Run
from tests.documents import job

VERBS_WITH_VERBS = ("secret", "node")


def commands() -> list[tuple[str, Any]]:
    """Every verb's command by the words that call it."""
    found = []
    for name in VERBS:
        loaded = load(name)
        subcommands = getattr(loaded, "commands", None)
        if subcommands:
            found += [(f"{name} {sub}", each) for sub, each in subcommands.items()]
        else:
            found.append((name, loaded))
    return found


COMMANDS = commands()


def examples(text: str) -> list[str]:
    return re.findall(r"^ +((?:source <\()?cumulus .+)$", text.partition("Examples:")[2], flags=re.MULTILINE)


@pytest.mark.parametrize(("words", "loaded"), COMMANDS, ids=[words for words, _ in COMMANDS])
def test_help_teaches_by_examples_that_parse(words: str, loaded: Any, run: Run) -> None:
    done = run(*words.split(), "--help")
    assert done.code == 0
    assert done.err == ""
    shown = examples(done.out)
    assert shown, f"cumulus {words} --help has no examples"
    for example in shown:
        line = example.removeprefix("source <(").removesuffix(")") if example.startswith("source") else example
        parts = shlex.split(re.split(" [<>] ", line)[0])[1:]
        if parts[0] == "--home":
            parts = parts[2:]
        assert parts[: len(words.split())] == words.split(), example
        loaded.make_context(words, parts[len(words.split()) :])


@pytest.mark.parametrize(("words", "loaded"), COMMANDS, ids=[words for words, _ in COMMANDS])
def test_every_option_is_explained(words: str, loaded: Any) -> None:
    for parameter in loaded.params:
        assert parameter.help, f"cumulus {words}: {parameter.name}"


def test_the_list_of_verbs_is_shown_without_loading_one() -> None:
    script = (
        "import sys; from cumulus.cli.main import main; main(['--help']); "
        "print(sorted(m for m in sys.modules if m.startswith('cumulus.cli.verbs.')))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
    for name, verb in VERBS.items():
        assert f"  {name} " in out
        assert verb.summary.split()[0] in out


def test_the_first_line_of_a_verbs_help_agrees_with_the_list() -> None:
    for name, verb in VERBS.items():
        text = load(name).help
        assert text.split()[0] == verb.summary.split()[0], name


def test_get_loads_nothing_heavy(store: SqliteStore) -> None:
    store.create(job("a"))
    script = (
        "import sys; from cumulus.cli.main import main; main(['get', 'jobs,nodes', '-o', 'wide']); "
        "print([m for m in ('pydantic', 'rich', 'yaml', 'structlog', 'watchfiles', 'docker', 'numpy', 'pyopencl') "
        "if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["gett"], "there is no command 'gett'; did you mean `cumulus get`?"),
        (["create"], "say what to read; as in -f FILE"),
        (["ps"], "there is no command 'ps'; did you mean `cumulus get jobs`?"),
        (["srun", "x"], "there is no command 'srun'; did you mean `cumulus run -- PROGRAM`?"),
        (["sky", "launch", "x.yaml"], "did you mean `cumulus run -- PROGRAM`?"),
        (["kubectl", "get", "pods"], "did you mean `cumulus get`?"),
        (["scontrol", "update", "JobId=7"], "did you mean `cumulus extend JOB +2h`?"),
        (["scontrol", "show", "job"], "did you mean `cumulus describe job NAME`?"),
        (["xyzzy"], "there is no command 'xyzzy'; see `cumulus --help`"),
        (["--nope"], "no such option: --nope (Possible options: --home); see `cumulus --help`"),
        (["apply", "-f"], "see `cumulus apply --help`"),
        (["logs"], "name objects, or give a kind with --all or a selector"),
        (["logs", "x", "--tail", "many"], "see `cumulus logs --help`"),
        (["secret", "creat"], "no such command 'creat'"),
    ],
)
def test_wrong_usage(run: Run, arguments: list[str], problem: str) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert problem in done.err
    assert done.err.count("\n") == 1


def test_no_arguments_show_the_help(run: Run) -> None:
    done = run()
    assert done.code == 0
    assert "Begin with:" in done.out
    assert run("--version").out.startswith("cumulus ")


def test_home_can_be_given(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    other = SqliteStore(tmp_path / "other" / "store")
    other.create(job("there"))
    other.close()
    monkeypatch.setenv("CUMULUS_HOME", "unset by --home, and put back after the test")
    assert run("--home", str(tmp_path / "other"), "get", "jobs", "-o", "name").out == "gpujob.cumulus.dev/there\n"


def test_flags_take_kubectls_values(store: SqliteStore, run: Run) -> None:
    store.create(job("a"))
    assert run("get", "jobs", "--no-headers=true").out.startswith("a ")
    assert run("get", "jobs", "--no-headers=false").out.startswith("NAME ")
    assert run("get", "jobs", "--no-headers=perhaps").code == 2
    assert run("delete", "job", "a", "--wait=false").out == "gpujob.cumulus.dev/a deleted\n"


@pytest.mark.usefixtures("served")
def test_a_reader_that_has_gone_is_no_error(store: SqliteStore) -> None:
    for number in range(300):
        store.create(job(f"job-with-a-long-name-{'x' * 100}-{number}"))
    script = f"{shlex.quote(sys.executable)} -m cumulus.cli.main get jobs -o json | head -n 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "{\n"
    assert done.stderr == ""


def test_a_full_disk_is_one_line(store: SqliteStore) -> None:
    store.create(job("a"))
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cumulus.cli.main", "get", "jobs"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")


def test_ctrl_c_is_quiet(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_run", interrupt)
    assert main(["get", "jobs"]) == 130
    assert capsys.readouterr() == ("", "")


def test_an_unusable_store_is_one_line(home: Path, run: Run) -> None:
    home.mkdir()
    (home / "store").write_text("not a directory")
    done = run("get", "jobs")
    assert done.code == 1
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


def test_version(run: Run) -> None:
    assert re.search(r"^apiVersion +cumulus.dev/v1alpha1$", run("version").out, flags=re.MULTILINE)
    assert run("version", "-o", "json").code == 0
    assert run("version", "-o", "xml").code == 2


def test_typer_is_used_as_this_version_has_it() -> None:
    """`_light` reaches into typer; where that no longer works, `get` starts slowly and this says why."""
    loaded = load("get")
    context = typer.Context(loaded)
    params = loaded.get_params(context)
    assert {type(p.get_runtime_param()).__name__ for p in params} == {"_Plain"}
