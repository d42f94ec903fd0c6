"""Who gets in, by what, and how often one may try."""

from __future__ import annotations

import base64
import json

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cumulus.rpc import orchestrator_pb2 as pb
from cumulus.server.failures import FAILURES_AT_ONCE
from cumulus.server.grpc.service import NAME
from cumulus.server.limiter import RequestLimits
from cumulus.service.identity import Identity
from tests.server.grpc.conftest import ANN, ROOT, Caller, Served, code_of, error_of


def refused(caller: Caller) -> StatusCode:
    with pytest.raises(grpc.RpcError) as raised:
        caller.List(pb.ListRequest(namespace="team"))
    return code_of(raised.value)


def test_a_ticket_opens_until_it_is_over(served: Served) -> None:
    caller = served.by(ANN)
    caller.List(pb.ListRequest(namespace="team"))
    served.clock.advance(299)
    caller.List(pb.ListRequest(namespace="team"))
    served.clock.advance(2)
    assert refused(caller) is StatusCode.UNAUTHENTICATED


def test_a_ticket_that_was_changed_or_made_elsewhere_opens_nothing(served: Served) -> None:
    body, signature = served.tickets.issue(ANN).ticket.split(".")
    said = json.loads(base64.urlsafe_b64decode(body + "=="))
    forged = base64.urlsafe_b64encode(json.dumps({**said, "user": "root", "uid": 0}).encode()).decode().rstrip("=")
    for ticket in (f"{forged}.{signature}", body, f"{body}.", f"{body}.{signature[:-2]}AA", "", ".", "x" * 9000):
        assert refused(Caller(served.path, ("cumulus-ticket", ticket))) is StatusCode.UNAUTHENTICATED
    caller = served.by(ANN)
    (served.home / "api" / "ticket.key").unlink()
    assert refused(caller) is StatusCode.UNAUTHENTICATED
    assert (served.home / "api" / "ticket.key").stat().st_mode & 0o777 == 0o600


def test_a_ticket_ends_with_the_token_it_was_asked_for_with(served: Served) -> None:
    token = served.service.tokens.create(ROOT, "t", user="ann")
    caller = served.by(served.service.tokens.authenticate(token.token))
    caller.List(pb.ListRequest(namespace="team"))
    served.service.tokens.revoke(ROOT, "t", user="ann")
    assert refused(caller) is StatusCode.UNAUTHENTICATED


def test_a_ticket_names_an_account_with_its_number(served: Served) -> None:
    assert refused(served.by(Identity("somebody", 0))) is StatusCode.UNAUTHENTICATED
    served.by(ROOT).List(pb.ListRequest())


def test_a_token_opens_and_nothing_does_not(served: Served) -> None:
    token = served.service.tokens.create(ROOT, user="ann").token
    Caller(served.path, ("authorization", f"Bearer {token}")).List(pb.ListRequest(namespace="team"))
    for metadata in (
        (), (("authorization", token),), (("authorization", "Bearer x"),),
        (("authorization", f"Bearer {token}"), ("cumulus-ticket", served.tickets.issue(ROOT).ticket)),
    ):  # fmt: skip
        assert refused(Caller(served.path, *metadata)) is StatusCode.UNAUTHENTICATED


def test_who_guesses_is_told_to_wait_and_others_pass(served: Served) -> None:
    caller = Caller(served.path, ("authorization", "Bearer guess"))
    codes = [refused(caller) for _ in range(FAILURES_AT_ONCE + 5)]
    assert codes[FAILURES_AT_ONCE + 2] is StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.RpcError) as raised:
        caller.List(pb.ListRequest())
    assert error_of(raised.value).retry_after > 0
    served.by(ANN).List(pb.ListRequest(namespace="team"))


def test_each_user_asks_so_often_and_no_more(served: Served) -> None:
    served.stop()
    served.limits = RequestLimits(a_second=0.01, at_once=3, open=2)
    served.start()
    for _ in range(3):
        served.by(ANN).List(pb.ListRequest(namespace="team"))
    assert refused(served.by(ANN)) is StatusCode.RESOURCE_EXHAUSTED
    served.by(ROOT).List(pb.ListRequest())


def test_health_is_for_all_and_reflection_for_those_who_are_known(served: Served) -> None:
    stranger = Caller(served.path)
    health = health_pb2_grpc.HealthStub(stranger.channel)
    assert health.Check(health_pb2.HealthCheckRequest(service=NAME)).status == 1
    with pytest.raises(grpc.RpcError):
        health.Check(health_pb2.HealthCheckRequest(service="x"))
    with pytest.raises(grpc.RpcError):
        next(health.Watch(health_pb2.HealthCheckRequest()))
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    with pytest.raises(grpc.RpcError):
        list(reflection_pb2_grpc.ServerReflectionStub(stranger.channel).ServerReflectionInfo(iter([asked])))
    known = reflection_pb2_grpc.ServerReflectionStub(served.by(ANN).channel)
    (answer,) = known.ServerReflectionInfo(iter([asked]))
    assert NAME in [service.name for service in answer.list_services_response.service]
