"""The protocol of `chronos_cli serve`: lines of JSON on its standard input and output.

    server: {"serve": 1, ...}                              once, when it is ready
    client: {"id": 7, "run": ["get", "--json", "..."]}     a request: a command line of `commands`, and a number
    server: {"id": 7, ...}                                 its answer: what the command would print (`wire`)

Answers come in any order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

VERSION = 1
"""Of the form of the lines; that of what is in them is `wire.PROTOCOL`."""

VERBS = (
    "devices",
    "stats",
    "list",
    "get",
    "create",
    "begin",
    "renew",
    "release",
    "prepare",
    "policy",
    "park",
    "unpark",
)
"""What may be asked: what the sudo rule of setup-worker.sh allows too."""


class SessionRequest(NamedTuple):
    id: Any
    words: Sequence[str]


def request_line(id: int, words: Sequence[str]) -> bytes:
    return json.dumps({"id": id, "run": words}).encode() + b"\n"


def read_request(line: bytes) -> SessionRequest:
    """Raises ValueError, TypeError and KeyError where it is none."""
    asked = json.loads(line)
    return SessionRequest(asked["id"], [str(word) for word in asked["run"]])
