"""What the options of a call become in its job."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cumulus.errors import UsageError
from cumulus.sdk import options
from cumulus.sdk.options import CallOptions


def spec(**asked: object) -> dict[str, object]:
    made: CallOptions = asked  # type: ignore[assignment]
    return dict(options.job("f", "default", made, {}, ttl="1h", annotations={})["spec"])


def test_a_call_waits_for_calls_and_jobs() -> None:
    call = SimpleNamespace(name="prepare-0123456789")
    assert spec(after=[call, "fetch"])["after"] == {"succeeded": ["prepare-0123456789", "fetch"]}


@pytest.mark.parametrize(
    ("after", "said"), [("fetch", "after='fetch' is no list"), ([7], "after must be a text, not 7")]
)
def test_what_is_no_call_and_no_name_is_refused(after: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        spec(after=after)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("s3:/bucket/run", "s3://bucket/run"), ("s3:bucket", "s3://bucket"), ("file:/mnt/a", "file:///mnt/a")],
)
def test_a_checkpoint_uri_with_a_slash_too_few_is_no_path(given: str, meant: str) -> None:
    with pytest.raises(UsageError) as refused:
        spec(checkpoint=given)
    assert refused.value.hint == f"a URI is written {meant}, a path ./{given}"


def test_a_checkpoint_is_a_path_a_uri_or_its_fields() -> None:
    assert spec(checkpoint="runs/a:b")["checkpoint"] == {"path": "runs/a:b"}
    assert spec(checkpoint="s3://bucket/run")["checkpoint"] == {"uri": "s3://bucket/run"}
    assert spec(checkpoint=True)["checkpoint"] == {}
    assert spec(checkpoint={"every": "5m"})["checkpoint"] == {"every": "5m"}


def test_a_text_that_is_no_utf8_is_named() -> None:
    """Python gives variables and names of files this way where they hold other bytes."""
    with pytest.raises(UsageError, match=r"env\['NAME'\] must be a text of UTF-8, not 'caf\\udce9'"):
        spec(env={"NAME": os.fsdecode(b"caf\xe9")})


def test_the_python_to_name_to_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for directory in ("venv/bin", "work"):
        (tmp_path / directory).mkdir(parents=True)
    (python := tmp_path / "venv/bin/python").symlink_to(sys.executable)
    for executable, named in (
        (str(python), str(python)),
        # ../venv/bin/python program.py
        (f"{tmp_path}/work/../venv/bin/python", os.path.join(os.path.realpath(python.parent), "python")),
        (r"C:\Python311\python.exe", ""), ("", ""), (None, ""), (os.fsdecode(b"/caf\xe9/python"), ""),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "executable", executable)
        assert options.interpreter(None) == named
        assert options.interpreter("/opt/python") == "/opt/python"
