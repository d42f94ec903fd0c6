"""What the options of a call become in its job."""

from __future__ import annotations

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
