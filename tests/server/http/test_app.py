"""What holds of every path of the API."""

from __future__ import annotations

from tests.server.http.conftest import Served


def test_it_answers(served: Served) -> None:
    assert served.ask("GET", "/livez").body == b"ok"


def test_a_path_that_is_none_is_answered_by_a_status(served: Served) -> None:
    answer = served.ask("GET", "/nothing")
    assert (answer.code, answer.json["kind"], answer.json["reason"]) == (404, "Status", "NotFound")
