"""What holds of every path of the API."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING

import pytest
import structlog
from starlette.responses import JSONResponse

from cumulus.server.http.listener import Listener
from tests.documents import job
from tests.server.http.conftest import Served
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


def test_it_answers(served: Served) -> None:
    assert served.ask("GET", "/livez").body == b"ok"


def test_a_path_that_is_none_is_answered_by_a_status(served: Served) -> None:
    answer = served.ask("GET", "/nothing")
    assert (answer.code, answer.json["kind"], answer.json["reason"]) == (404, "Status", "NotFound")


@pytest.mark.parametrize("header", ["impersonate_user", "Impersonate_Group", "IMPERSONATE_UID", "impersonate_extra_a"])
def test_nobody_asks_as_another_nor_as_themselves_by_mistake(served: Served, header: str) -> None:
    """`kubectl --as viewer delete …` by an admin deletes nothing."""
    served.store.create(job("train"))
    path = "/apis/cumulus.dev/v1alpha1/namespaces/default/gpujobs/train"
    for method, url in (("DELETE", path), ("GET", path), ("GET", "/metrics")):
        answer = served.ask(method, url, **{header: "viewer"})
        assert (answer.code, answer.json["reason"]) == (403, "Forbidden"), (method, answer.body)
        assert "--as" in answer.json["message"]
    assert "deletionTimestamp" not in served.get(path)["metadata"]


FORGED = {
    "x_forwarded_for": "192.0.2.7", "x_forwarded_proto": "https", "x_real_ip": "192.0.2.7", "x_remote_user": "root",
    "forwarded": "for=192.0.2.7;proto=https", "x_remote_group": "cumulus-admin", "x_forwarded_user": "root",
}  # fmt: skip


def test_what_a_client_says_of_itself_changes_nothing(served: Served) -> None:
    """Neither who asks, nor what the log says of it."""
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    said = [served.ask("POST", path, {}, **headers).json["status"] for headers in ({}, FORGED)]
    assert said[0] == said[1]
    with structlog.testing.capture_logs() as lines:
        jobs = "/apis/cumulus.dev/v1alpha1/namespaces/default/gpujobs"
        assert served.ask("POST", jobs, job("train"), **FORGED).code == 201
    told = json.dumps(lines, default=str)
    assert served.asks.name in told
    for word in ("192.0.2.7", "root", "cumulus-admin"):
        assert word not in told
    made = served.get(f"{jobs}/train")
    assert "192.0.2.7" not in json.dumps(made)


def test_an_address_is_the_connections_whatever_headers_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """By it those are told to wait who show no valid token, and who call hooks. uvicorn would believe the loopback, and
    whom this variable names."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse([scope["client"][0], scope["scheme"]])(scope, receive, send)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listener = Listener(app, [listening])
        listener.start()
        try:
            connection = http.client.HTTPConnection(*listening.getsockname(), timeout=PATIENCE)
            connection.request("GET", "/", headers={name.replace("_", "-"): value for name, value in FORGED.items()})
            assert json.loads(connection.getresponse().read()) == ["127.0.0.1", "http"]
            connection.close()
        finally:
            listener.close()
