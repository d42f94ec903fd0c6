"""What runs wait for before they start."""

from __future__ import annotations

import threading

from structlog.contextvars import bound_contextvars, get_contextvars

from cumulus.backends.preparing import Preparing
from tests.waiting import PATIENCE


def test_what_is_logged_meanwhile_says_of_which_reconcile_it_is() -> None:
    seen: list[object] = []
    looked = threading.Event()

    def work() -> None:
        seen.append(get_contextvars())
        looked.set()

    with bound_contextvars(loop="job", key="default/a", reconcile=7):
        Preparing().run("w", work, seen.append, lambda: None)
    assert looked.wait(PATIENCE)
    assert seen == [{"loop": "job", "key": "default/a", "reconcile": 7}]
