"""A browser that asks the page of a served API: it keeps cookies, and says where it comes from as browsers do."""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode

import pytest
import structlog

from cumulus.service.addresses import PageAddress, page_address
from cumulus.service.identity import Identity
from tests.server.http.conftest import Answer, Served, UnixConnection

HOST = "localhost"


@dataclass
class Browser:
    """`answer`: the last one."""

    served: Served
    cookies: dict[str, str] = field(default_factory=dict)
    lines: Sequence[MutableMapping[str, Any]] = ()
    """What the server logs."""

    def get(self, url: str, *, site: str = "same-origin", follow: bool = True, **headers: str) -> Answer:
        """A person goes there; where it leads elsewhere, on to that."""
        headers.setdefault("sec_fetch_mode", "navigate")
        answer = self._ask("GET", url, None, sec_fetch_site=site, **headers)
        while follow and answer.code == 303:
            answer = self._ask("GET", answer.headers["location"], None, sec_fetch_site=site, sec_fetch_mode="navigate")
        return answer

    def page(self, url: str) -> str:
        answer = self.get(url)
        assert answer.code == 200, (url, answer.code, answer.body)
        return answer.body.decode()

    def send(self, url: str, origin: str = f"http://{HOST}", *, csrf: bool = True, **fields: str) -> Answer:
        """A form is sent, with what the session's pages hide in each."""
        return self.post(url, {"csrf": self.csrf, **fields} if csrf else fields, origin)

    def post(self, url: str, fields: Mapping[str, str], origin: str = f"http://{HOST}") -> Answer:
        """A form with these fields alone."""
        body = urlencode(fields).encode()
        headers = {"content_type": "application/x-www-form-urlencoded", "sec_fetch_site": "same-origin"}
        if origin:
            headers["origin"] = origin
        return self._ask("POST", url, body, **headers)

    @property
    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', self.page("/ui/jobs"))
        assert found is not None
        return found[1]

    def sign_in(self) -> None:
        """By a one-time link, as `cumulus ui` gets it."""
        link = self.served.ask("POST", "/cumulus/v1/page_link", {}).json["value"]
        answer = self.get(f"/ui/enter?code={link['code']}", site="none", follow=False)
        assert (answer.code, answer.headers.get("location")) == (303, "/ui/"), answer.body

    def sign_in_as(self, identity: Identity) -> None:
        before, self.served.asks = self.served.asks, identity
        self.sign_in()
        self.served.asks = before

    def _ask(self, method: str, url: str, body: bytes | None, **headers: str) -> Answer:
        if self.cookies:
            headers["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers.setdefault("host", HOST)
        answer = self.served.ask(method, url, body, **headers)
        for header in answer.all_headers("set-cookie"):
            for name, morsel in SimpleCookie(header).items():
                self.cookies[name] = morsel.value
                if not morsel.value or morsel["max-age"] == "0":
                    del self.cookies[name]
        return answer


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


@pytest.fixture
def browser(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Browser]:
    # A daemon runs, as far as the service is told.
    monkeypatch.setattr("cumulus.service.service.Service.is_served", lambda self: True)
    page_address.write(served.path.parent / "home", PageAddress("http://127.0.0.1:1"))
    # Who has an account here: sessions look it up.
    served.asks = Identity.of_this_process()
    with structlog.testing.capture_logs() as lines:
        yield Browser(served, lines=lines)
    failures = [each for each in lines if each["event"] == "a page failed"]
    for each in failures:
        print("".join(traceback.format_exception(each["exc_info"])))
    assert not failures
