"""The stream that tells a browser what changed."""

from __future__ import annotations

import pytest

from cumulus.server.http.ui import changes
from tests.documents import job
from tests.server.http.conftest import Served
from tests.server.http.ui.conftest import Browser, stream


def test_a_change_is_told_at_once_by_name(browser: Browser, served: Served) -> None:
    browser.sign_in()
    with stream(browser, "/ui/changes?watch=1") as events:
        assert next(events) == ("hello", {"revision": served.store.revision()})
        assert next(events) == ("clock", {"now": round(served.clock.now().timestamp() * 1000)})
        served.store.create(job("train"))
        assert next(events) == ("change", {
            "kinds": ["GPUJob"], "keys": ["gpujob/default/train"], "revision": served.store.revision(),
        })  # fmt: skip


def test_it_ends_with_the_session(browser: Browser, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "QUIET_SECONDS", 0.05)
    browser.sign_in()
    with stream(browser, "/ui/changes?watch=1") as events:
        assert next(events) == ("hello", {"revision": served.store.revision()})
        browser.send("/ui/sign-out")
        *clock, last = events
        assert {name for name, _ in clock} == {"clock"}
        assert last == ("signed-out", {})


def test_who_is_not_signed_in_hears_nothing(browser: Browser) -> None:
    for url in ("/ui/changes?watch=1", "/ui/jobs/default/train/log/follow?follow=true"):
        assert browser.get(url, accept="text/event-stream", follow=False).code == 401
