from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from cumulus import log
from cumulus.errors import UsageError


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_json_away_from_a_terminal() -> None:
    out = io.StringIO()
    log.configure(stream=out)
    with structlog.contextvars.bound_contextvars(key="gpujob/default/train", reconcile_id="r1"):
        structlog.get_logger().info("placed", node="gpu-1")
    structlog.get_logger().debug("not shown")
    [line] = lines(out)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "placed", "level": "info", "key": "gpujob/default/train", "reconcile_id": "r1", "node": "gpu-1"
    }  # fmt: skip


def test_secrets_are_blanked_however_deep() -> None:
    out = io.StringIO()
    log.configure(stream=out)
    structlog.get_logger().info(
        "x", password="p1", env={"API_KEY": "p2", "plain": "shown", "deep": [{"aws_secret_access_key": "p3"}]},
        Authorization="p4", credentials=["p5"], token=7, fencing_token=8,
    )  # fmt: skip
    text = out.getvalue()
    assert not any(secret in text for secret in ("p1", "p2", "p3", "p4", "p5"))
    assert "shown" in text
    assert lines(out)[0]["token"] == 7
    assert lines(out)[0]["fencing_token"] == 8


def test_exceptions_are_one_json_line() -> None:
    out = io.StringIO()
    log.configure(stream=out)
    try:
        raise ValueError("oh")
    except ValueError:
        structlog.get_logger().exception("failed")
    [line] = lines(out)
    assert "ValueError: oh" in line["exception"]


def test_readable_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    log.configure(stream=out)
    structlog.get_logger().info("placed", node="gpu-1")
    assert "\x1b[" in out.getvalue()
    assert "placed" in out.getvalue()
    plain = Terminal()
    monkeypatch.setenv("NO_COLOR", "1")
    log.configure(stream=plain)
    structlog.get_logger().info("placed", node="gpu-1", password="p")
    assert "\x1b[" not in plain.getvalue()
    assert "node=gpu-1" in plain.getvalue()
    assert "password=[redacted]" in plain.getvalue()


def test_levels() -> None:
    out = io.StringIO()
    log.configure(stream=out, level="error", format="console")
    structlog.get_logger().warning("quiet")
    assert out.getvalue() == ""
    with pytest.raises(UsageError, match="there is no log level"):
        log.configure(level="loud")
    with pytest.raises(UsageError, match="there is no log format"):
        log.configure(format="xml")
