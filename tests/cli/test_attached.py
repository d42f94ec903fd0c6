"""What a follower says and ends with, by the job's document."""

from __future__ import annotations

from typing import Any

import pytest

from cumulus.cli.attached import outcome, waiting
from tests.documents import ago, job

ENDED = {"startTime": ago(minutes=2), "endTime": ago(minutes=1)}


def over(**attempt: Any) -> dict[str, Any]:
    last = [{"number": 2, **ENDED, **attempt}] if attempt else []
    failed = {"type": "Failed", "status": "True", "reason": "StartRefused", "message": "no such secret"}
    status = {
        "phase": "Failed",
        "conditions": [failed],
        "attempts": [{"number": 1, **ENDED, "exitCode": 9}][: len(last)],
    }
    return job("train", status={**status, "attempts": [*status["attempts"], *last]})


@pytest.mark.parametrize(
    ("attempt", "code", "line"),
    [
        ({"reason": "Error", "exitCode": 3, "message": "ended with exit code 3"}, 3, ""),
        ({"reason": "Error", "exitCode": 139, "message": "ended with signal SIGSEGV"}, 139, "Error: ended with signal"),
        ({"reason": "LeaseExpired", "exitCode": 143}, 124, "its lease of 1h is over"),
        ({"reason": "ExpiredBeforeStart", "message": "{late}"}, 124, "{late}"),
        ({"reason": "Deadline", "exitCode": 143}, 124, "spec.activeDeadline is over"),
        ({"reason": "OOMKilled", "exitCode": 137, "message": "{8Gi}"}, 137, "it used more memory than it may: {8Gi}"),
        ({"reason": "StartError", "message": "no such program"}, 126, "it could not be started: no such program"),
        ({"reason": "NodeLost", "message": "gpu-1 is gone"}, 1, "NodeLost: gpu-1 is gone"),
        ({"reason": "Unheard", "exitCode": 75}, 75, "Unheard"),
        ({}, 1, "StartRefused: no such secret"),
    ],
)
def test_how_a_job_ended(attempt: dict[str, Any], code: int, line: str) -> None:
    document = over(**attempt)
    document["spec"]["gpu"]["duration"] = "1h"
    found = outcome(document)
    assert found.code == code
    assert found.line.startswith(line)
    assert bool(found.line) == bool(line)


def test_what_succeeded_needs_no_line() -> None:
    done = {"type": "Succeeded", "status": "True"}
    attempts = [{"number": 1, **ENDED, "exitCode": 3, "reason": "Error"}, {"number": 2, **ENDED, "reason": "Completed"}]
    assert outcome(job("train", status={"phase": "Succeeded", "conditions": [done], "attempts": attempts})) == (0, "")


def test_what_is_waited_for_in_one_line() -> None:
    lines = [
        "gpujob/b: starts by 2030-01-31T12:00:00Z (in 1h) at the latest.",
        "place 2 of 3 in the queue, behind job c",
        "waits for:",
        "  partition mine: 8Gi and 80% of device 0 of vm, until 2030-01-31T12:00:00Z at the latest",
        "  partition yours: 1Gi and 10% of device 0 of vm, until 2030-01-31T12:00:00Z at the latest",
        "nodes:",
        "  vm: InsufficientMemory: 1Gi free",
    ]
    assert waiting(lines) == (
        "gpujob/b: starts by 2030-01-31T12:00:00Z (in 1h) at the latest; place 2 of 3 in the queue, behind job c; "
        "waits for partition mine: 8Gi and 80% of device 0 of vm, until 2030-01-31T12:00:00Z at the latest; and 1 more"
    )
    assert waiting(
        ["gpujob/b: no node could ever hold it (of 1 node: 1 TooLarge).", "nodes:", "  vm: TooLarge: x"]
    ) == ("gpujob/b: no node could ever hold it (of 1 node: 1 TooLarge)")
