"""What needs no server: addresses, imports, types, decorators, names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cumulus import sdk
from cumulus.client import contexts
from cumulus.client.contexts import Context, Contexts
from cumulus.errors import CumulusError, UsageError
from cumulus.sdk import CumulusClient, endpoint, gpu, options, remote

HERE = Path(__file__).parent


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, cumulus.sdk, cumulus.sdk.client\n"
        "heavy = {'grpc', 'cloudpickle', 'pydantic', 'rich', 'yaml', 'google.protobuf', 'structlog', 'orjson'}\n"
        "print(*sorted(heavy & set(sys.modules)))\n"
        "assert not [m for m in sys.modules if m.startswith(('cumulus.server', 'cumulus.service', 'cumulus.store'))]\n"
        "from sdk.client import CumulusClient\n"
        "assert CumulusClient is cumulus.sdk.CumulusClient\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_a_star_import_brings_all_that_there_is() -> None:
    names: dict[str, object] = {}
    exec("from cumulus.sdk import *", names)  # as a user's notebook does
    assert names["CumulusClient"] is CumulusClient
    public = {name for name, value in vars(sdk).items() if getattr(value, "__module__", "").startswith("cumulus.sdk")}
    assert {name for name in public if not name.startswith("_")} <= set(sdk.__all__) <= set(names)


def test_mypy_checks_calls() -> None:
    files = [HERE / "typing" / name for name in ("good.py", "bad.py")]
    # A cache of its own: that of the checks has other settings.
    cache = HERE.parents[1] / ".mypy_cache" / "typing"
    settings = [f"--config-file={HERE / 'typing' / 'mypy.ini'}", f"--cache-dir={cache}", "--no-error-summary"]
    command = [sys.executable, "-m", "mypy", *settings, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE.parents[1])
    wanted = {
        (file.name, number) for file in files
        for number, line in enumerate(file.read_text().splitlines(), 1) if line.endswith("# wrong")
    }  # fmt: skip
    found = {
        (Path(line.split(":")[0]).name, int(line.split(":")[1])) for line in done.stdout.splitlines()
        if ": error:" in line
    }  # fmt: skip
    assert found == wanted, done.stdout


def test_whom_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configuration: Path) -> None:
    monkeypatch.setenv("CUMULUS_HOME", str(tmp_path / "home"))
    with pytest.raises(CumulusError, match="no daemon runs") as caught:
        CumulusClient()
    assert caught.value.hint == "start it: cumulus serve"
    found = endpoint.find("gpu.example.org:50051", "secret")
    assert found == endpoint.ServerAddress("gpu.example.org:50051", "default", token="secret")
    assert endpoint.find("gpu.example.org", "t").target == "gpu.example.org:50051"
    assert endpoint.find("[::1]:7", "t").target == "[::1]:7"
    monkeypatch.setenv("CUMULUS_ORCHESTRATOR_URL", "other:1234")
    monkeypatch.setenv("CUMULUS_TOKEN", "mine")
    assert endpoint.find() == endpoint.ServerAddress("other:1234", "default", token="mine")
    monkeypatch.delenv("CUMULUS_TOKEN")
    with pytest.raises(CumulusError, match="there is no token for it"):
        endpoint.find()
    context = Context("lab", "https://gpu.example.org:6443", "PEM", "of-context", "vision")
    contexts.write(configuration / "contexts.json", Contexts((context,), "lab"))
    assert endpoint.find("gpu.example.org:50051") == endpoint.ServerAddress(
        "gpu.example.org:50051", "vision", "PEM", "of-context"
    )
    monkeypatch.delenv("CUMULUS_ORCHESTRATOR_URL")
    monkeypatch.delenv("CUMULUS_HOME")
    assert endpoint.find().target == "gpu.example.org:50051"
    assert endpoint.find("unix:/run/x/api.sock").target == "unix:/run/x/grpc.sock"
    asked = endpoint.find("https://10.0.0.5:6443", " given\n")
    assert asked.token == "given"
    assert asked.api is not None
    assert asked.api.token == "given", "who asks for tickets shows it too"
    for token in ("two words", "two\nlines", "gr\u00fcn"):
        with pytest.raises(UsageError, match="token= is no token"):
            endpoint.find("gpu.example.org:50051", token)
        monkeypatch.setenv("CUMULUS_TOKEN", token)
        with pytest.raises(UsageError, match="CUMULUS_TOKEN is no token"):
            endpoint.find("gpu.example.org:50051")
    monkeypatch.delenv("CUMULUS_TOKEN")
    with pytest.raises(UsageError, match="address names http://"):
        endpoint.find("http://x:1", "t")
    for wrong in ("a b:1", "host:port", "host:99999", ":1", "http://x:1"):
        with pytest.raises(UsageError):
            endpoint.find(wrong, "t")


def test_decorators_keep_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    @gpu(memory=0.5, duration="1h")
    def train(x: int) -> int:
        """Docs."""
        return x + 1

    @remote
    def plain(x: int) -> int:
        return x

    assert train.options == {"gpu_memory": 0.5, "duration": "1h", "gpus": 1}
    assert (getattr(train, "__name__", ""), train.__doc__) == ("train", "Docs.")
    assert train.local(1) == 2
    monkeypatch.setenv("CUMULUS_JOB", "job")
    assert train(1) == 2, "inside of a call it runs there and then"
    assert plain(1) == 1


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("<lambda>", "lambda-"),
        ("train_model", "train-model-"),
        ("a.<locals>.B", "b-"),
        ("Ünï", "n-"),
        ("x" * 90, "xxx"),
    ],
)
def test_names_of_jobs(name: str, begins: str) -> None:
    made = options.job_name(name)
    assert made.startswith(begins)
    assert len(made) <= 63
    assert options.job_name(name) != made
