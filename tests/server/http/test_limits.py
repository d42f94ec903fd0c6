"""What one user may ask of the server, and what the log says of it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import structlog

from cumulus.clock import FakeClock
from cumulus.errors import TooManyRequests
from cumulus.server.limiter import Limiter, RequestLimits
from cumulus.server.rates import Rates
from cumulus.service.identity import Identity
from cumulus.store.memory import MemoryStore
from tests.documents import NOW, job
from tests.server.http.conftest import Served, serving

ANN = Identity("ann", 4711)


def test_a_bucket_fills_up_with_time() -> None:
    now = [0.0]
    rates = Rates(2, 3, most=2, now=lambda: now[0])
    assert [rates.take("ann") for _ in range(4)] == [0, 0, 0, 0.5]
    assert rates.take("bob") == 0
    now[0] = 0.5
    assert rates.take("ann") == 0
    assert rates.take("ann") == 0.5
    rates.take("carol")
    rates.take("dave")
    assert rates.take("ann") == 0, "who asks least is forgotten"


def test_requests_of_one_user_are_limited_and_the_owners_are_not() -> None:
    limiter = Limiter(RequestLimits(a_second=1, at_once=3, open=2), owner=1000)
    assert limiter.begin(ANN)
    assert limiter.begin(ANN._replace(token="x", groups=("y",)))
    with pytest.raises(TooManyRequests, match="ann has 2 requests open"):
        limiter.begin(ANN)
    limiter.end(ANN)
    assert limiter.begin(ANN)
    limiter.end(ANN)
    with pytest.raises(TooManyRequests, match="ann asks too fast") as refused:
        limiter.begin(ANN)
    assert 0 < refused.value.seconds <= 1
    assert limiter.begin(Identity("ann"))
    for free in (Identity("root", 0), Identity("me", 1000)):
        assert not any(limiter.begin(free) for _ in range(10))


def test_a_client_is_told_when_to_come_again(tmp_path: Path) -> None:
    server = Served(tmp_path / "api.sock", MemoryStore(), FakeClock(NOW), ANN)
    limits = RequestLimits(a_second=0.01, at_once=2)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(server.path))
        with serving(listening, server.store, tmp_path, server.clock, server.outside, lambda: ANN, limits):
            answers = [server.ask("GET", "/livez") for _ in range(3)]
    assert [each.code for each in answers] == [200, 200, 429]
    assert int(answers[2].headers["retry-after"]) > 90
    assert answers[2].json["reason"] == "TooManyRequests"


def test_each_change_is_a_line_of_the_log_without_what_it_carries(served: Served) -> None:
    with structlog.testing.capture_logs() as lines:
        served.get("/apis/cumulus.dev/v1alpha1/gpujobs", authorization="Bearer cumulus_hidden")
        path = "/apis/cumulus.dev/v1alpha1/namespaces/default/gpujobs"
        made = served.ask(
            "POST", path, job("train", env=[{"name": "A", "value": "hidden"}]), authorization="Bearer hidden"
        )
        served.ask("DELETE", path + "/%1b[2J%0aforged")
        # Their method says otherwise, but they change nothing.
        served.ask("POST", "/cumulus/v1/revision", {})
        served.ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
    assert made.code == 201, made.body
    said = [each for each in lines if each["event"] == "request"]
    assert [(each["method"], each["user"], each["code"]) for each in said] == [
        ("POST", served.asks.name, 201), ("DELETE", served.asks.name, said[1]["code"]),
    ]  # fmt: skip
    assert said[0]["path"] == path
    assert "hidden" not in json.dumps(lines)
    assert "\x1b" not in said[1]["path"]
    assert "\n" not in said[1]["path"]
