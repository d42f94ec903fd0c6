"""`cumulus ui`: the link, and where it is opened."""

from __future__ import annotations

import webbrowser
from functools import cache

import pytest

from cumulus.answers.sessions import PageLink
from cumulus.cli import context
from cumulus.cli.main import main
from cumulus.client.endpoint import Endpoint

LINK = "http://127.0.0.1:8265/ui/enter?code=c0de"


class _Client:
    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def page_link(self) -> PageLink:
        return PageLink("http://127.0.0.1:8265", "c0de", "2030-01-01T00:00:00Z")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    links: list[str] = []
    monkeypatch.setattr(context, "client", lambda **_: _Client())
    monkeypatch.setattr(context, "endpoint", cache(lambda: Endpoint("unix", "/s")))
    monkeypatch.setattr(webbrowser, "open", lambda link: links.append(link) or True)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    return links


def test_a_browser_opens_the_link(opened: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui"]) == 0
    assert opened == [LINK]
    said = capsys.readouterr()
    assert "c0de" not in said.out + said.err


def test_it_may_be_printed(opened: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "--print"]) == 0
    assert (opened, capsys.readouterr().out) == ([], f"{LINK}\n")


def test_over_ssh_it_says_how_to_get_there(
    opened: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "a 1 b 2")
    assert main(["ui"]) == 0
    said = capsys.readouterr()
    assert (opened, said.out) == ([], f"{LINK}\n")
    assert "ssh -L 8265:127.0.0.1:8265" in said.err


def test_another_server_is_asked_where_the_context_finds_it(opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "endpoint", cache(lambda: Endpoint("https", "https://gpu.example.org:6443")))
    assert main(["ui"]) == 0
    assert opened == ["https://gpu.example.org:6443/ui/enter?code=c0de"]


def test_without_a_daemon_it_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("CUMULUS_HOME", str(tmp_path_factory.mktemp("home")))
    assert main(["ui", "--print"]) == 1
    assert "cumulus serve" in capsys.readouterr().err
