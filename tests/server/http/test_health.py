"""`/livez` and `/readyz`: by what a leader wrote of itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from cumulus.clock import timestamp
from cumulus.resources.kinds.lease import LEADER
from tests.documents import NOW
from tests.server.http.conftest import Served


def lead(served: Served, *, ago: float = 0.0, problem: str = "") -> None:
    renewed = timestamp(NOW - timedelta(seconds=ago))
    status = "False" if problem else "True"
    progressing = {
        "type": "Progressing", "status": status, "message": problem, "reason": "X", "lastTransitionTime": renewed,
    }  # fmt: skip
    lease: dict[str, Any] = {
        "apiVersion": "cumulus.dev/v1alpha1", "kind": "Lease", "metadata": {"name": LEADER},
        "spec": {"holderIdentity": "one", "renewTime": renewed}, "status": {"conditions": [progressing]},
    }  # fmt: skip
    served.store.create(lease)


def test_ready_is_who_works(served: Served) -> None:
    assert served.ask("GET", "/livez").body == b"ok"
    answer = served.ask("GET", "/readyz")
    assert (answer.code, answer.body.decode()) == (
        500,
        "[+]ping ok\n[+]store ok\n[-]leader failed: no daemon leads\n"
        "[-]controllers failed: no daemon leads\nreadyz check failed\n",
    )
    lead(served)
    assert served.ask("GET", "/readyz").body == b"ok"
    verbose = served.ask("GET", "/healthz?verbose")
    assert verbose.body == b"[+]ping ok\n[+]store ok\n[+]leader ok\n[+]controllers ok\nhealthz check passed\n"


def test_a_leader_that_is_late_or_makes_no_progress_is_not_ready(served: Served) -> None:
    lead(served, problem="the controller job has finished nothing")
    answer = served.ask("GET", "/readyz")
    assert (answer.code, "[-]controllers failed: the controller job has finished nothing" in answer.body.decode()) == (
        500,
        True,
    )
    assert served.ask("GET", "/readyz?exclude=controllers").code == 200
    assert served.ask("GET", "/readyz/leader").code == 200
    assert served.ask("GET", "/readyz/controllers").code == 500
    assert served.ask("GET", "/readyz/nothing").code == 404
    served.clock.advance(21)
    assert b"[-]leader failed" in served.ask("GET", "/readyz?verbose").body
