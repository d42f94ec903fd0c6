"""The stream that tells a browser what changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cumulus.server.http.ui import changes
from tests.documents import job
from tests.server.http.conftest import Served, UnixConnection
from tests.server.http.ui.conftest import Browser


@contextmanager
def stream(browser: Browser, url: str) -> Iterator[Iterator[tuple[str, object]]]:
    """The events of a stream, with their data."""
    connection = UnixConnection(browser.served.path)
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    connection.request("GET", url, headers={"cookie": cookie, "accept": "text/event-stream"})
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("content-type")) == (200, "text/event-stream; charset=utf-8")

    def events() -> Iterator[tuple[str, object]]:
        name = ""
        for line in answer:
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)

    try:
        yield events()
    finally:
        connection.close()


def test_a_change_is_told_at_once_by_name(browser: Browser, served: Served) -> None:
    browser.sign_in()
    with stream(browser, "/ui/changes?watch=1") as events:
        assert next(events) == ("hello", {})
        served.store.create(job("train"))
        assert next(events) == ("change", {"kinds": ["GPUJob"], "keys": ["gpujob/default/train"]})


def test_it_ends_with_the_session(browser: Browser, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "QUIET_SECONDS", 0.05)
    browser.sign_in()
    with stream(browser, "/ui/changes?watch=1") as events:
        assert next(events) == ("hello", {})
        browser.send("/ui/sign-out")
        assert list(events) == [("signed-out", {})]


def test_who_is_not_signed_in_hears_nothing(browser: Browser) -> None:
    for url in ("/ui/changes?watch=1", "/ui/jobs/default/train/log/follow?follow=true"):
        assert browser.get(url, accept="text/event-stream", follow=False).code == 401
