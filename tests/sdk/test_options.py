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
