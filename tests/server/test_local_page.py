"""The page for browsers of this machine: where it is, whose browser may be signed in, and that it is all there is."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.clock import FakeClock
from cumulus.errors import Unauthenticated
from cumulus.lib.unix_socket import Peer
from cumulus.server.api import Api
from cumulus.server.http.connection import LOCAL_USER, PEER
from cumulus.server.http.ui.sign_in import check_connection, check_session
from cumulus.server.local_page import LocalPage
from cumulus.server.settings import ApiSettings
from cumulus.server.watches import WatchBridge
from cumulus.service.addresses import PageAddress, page_address
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.service.sessions import Sessions
from cumulus.store.memory import MemoryStore
from tests.documents import NOW
from tests.waiting import PATIENCE

ME = Identity.of_this_process()
OTHER = ME._replace(uid=(ME.uid or 12344) + 1)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    store = MemoryStore()
    made = Api(Service(lambda: store, tmp_path, FakeClock(NOW)), WatchBridge(store))
    yield made
    made.bridge.close()
    made.close()
    store.close()


def ask(port: int, path: str, cookie: str = "") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", path, headers={"cookie": cookie} if cookie else {})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def test_the_page_alone_is_served_and_its_address_stays(tmp_path: Path, api: Api) -> None:
    ports = []
    for _ in range(2):
        page = LocalPage(tmp_path, api, "127.0.0.1:0")
        page.open()
        found = page_address.read(tmp_path)
        assert found is not None
        port = int(found.url.rpartition(":")[2])
        ports.append(port)
        try:
            assert ask(port, "/").getheader("location") == "/ui/"
            assert ask(port, "/ui/sign-in").status == 200
            for path in ("/version", "/livez", "/apis", "/cumulus/v1/who_am_i", "/hooks/a/b"):
                assert ask(port, path).status == 404, path
            # The kernel says that this process asks, so its user's session is good, if it began here.
            bot = Identity("ci-bot", None, (), "")
            for user, browser, code in (
                (ME, ME.uid, 200), (OTHER, OTHER.uid, 303), (bot, ME.uid, 200), (bot, OTHER.uid, 303), (ME, None, 303)
            ):  # fmt: skip
                secret = api.service.sessions.begin(user, browser)
                assert ask(port, "/ui/jobs", f"cumulus-{port}={secret}").status == code, (user, browser)
        finally:
            page.close()
    assert ports[0] == ports[1]


def test_it_may_be_off(tmp_path: Path, api: Api) -> None:
    (tmp_path / "page.json").write_text("{}")
    page = LocalPage(tmp_path, api, "")
    page.open()
    page.close()
    assert not (tmp_path / "page.json").exists()


def test_a_taken_port_keeps_nothing_else_from_being_served(tmp_path: Path, api: Api) -> None:
    first, second = LocalPage(tmp_path, api, "127.0.0.1:0"), None
    first.open()
    try:
        found = page_address.read(tmp_path)
        assert found is not None
        second = LocalPage(tmp_path, api, found.url.removeprefix("http://"))
        second.open()
    finally:
        first.close()
        if second is not None:
            second.close()


def test_whose_browser_it_is() -> None:
    ann = Identity("ann", 1001)
    check_connection({"state": {LOCAL_USER: 1001}}, ann)
    check_connection({"state": {LOCAL_USER: 1002}}, Identity("ci-bot"))
    check_connection({"state": {}}, ann)
    for other in (1002, 0, None):
        with pytest.raises(Unauthenticated, match="not ann's"):
            check_connection({"state": {LOCAL_USER: other}}, ann)


def test_what_was_stolen_here_opens_nothing_by_another_way_in(api: Api, tmp_path: Path) -> None:
    stolen = api.service.sessions.find(api.service.sessions.begin(ME, ME.uid))
    check_session({"state": {LOCAL_USER: ME.uid}}, stolen)
    over_tls, at_the_socket = {"state": {}}, {"state": {PEER: Peer(1, OTHER.uid or 0, 0)}}
    for scope in (over_tls, at_the_socket, {"state": {LOCAL_USER: None}}):
        with pytest.raises(Unauthenticated, match="another address"):
            check_session(scope, stolen)
    page_address.write(tmp_path, PageAddress("http://127.0.0.1:1"))
    sessions = Sessions(tmp_path, FakeClock(NOW), api.service.tokens, lambda: True)
    code, by_token = sessions.link(ME).code, sessions.link(Identity("ci-bot", token="t")).code
    with pytest.raises(Unauthenticated, match="own machine"):
        sessions.open_link(code, None)
    assert sessions.user_of_link(code, ME.uid) == ME
    assert sessions.user_of_link(by_token, None).name == "ci-bot"
    sessions.end_all(ME)
    with pytest.raises(Unauthenticated, match="over"):
        sessions.open_link(code, ME.uid)


@pytest.mark.parametrize("given", ["0.0.0.0:80", "10.0.0.1:80", "[::1]:80", "localhost:80", "8265"])
def test_without_tls_it_stays_on_this_machine(given: str) -> None:
    with pytest.raises(ValueError, match=r"page"):
        ApiSettings(page=given)
    assert (ApiSettings(page="off").page, ApiSettings(page="127.0.0.1:8265").page) == ("", "127.0.0.1:8265")
