"""Whom a client asks: every rung of the ladder, and what is no address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cumulus import paths
from cumulus.client import contexts
from cumulus.client.contexts import Context, Contexts
from cumulus.client.endpoint import Endpoint, EndpointFacts, find, parse_server, resolve
from cumulus.errors import CumulusError, NotFound, UsageError

LAB = Context("lab", "https://lab:6443", "CA", "lab-token", "team")
OWN, SYSTEM = "/h/api.sock", paths.SYSTEM_SOCKET


def listening(*there: str, dead: tuple[str, ...] = ()) -> Callable[[str], bool | None]:
    return lambda path: True if path in there else False if path in dead else None


def facts(**said: object) -> EndpointFacts:
    return EndpointFacts(home="/h", user="Ada.L")._replace(**said)  # type: ignore[arg-type]


EVERYTHING = facts(
    server="https://flag", url="https://variable", home_is_explicit=True, context=lambda: LAB,
    answers=listening(OWN, SYSTEM), offline=True,
)  # fmt: skip


def test_each_rung_wins_over_those_below_it() -> None:
    said = EVERYTHING
    taken = []
    for without in (
        {"offline": False}, {"server": ""}, {"url": ""}, {"home_is_explicit": False}, {"context": lambda: None},
        {"answers": listening(SYSTEM)}, {"answers": listening()}, {},
    ):  # fmt: skip
        found = resolve(said)
        taken.append((found.kind, found.address))
        said = said._replace(**without)  # type: ignore[arg-type]
    assert taken == [
        ("embedded", "/h"), ("https", "https://flag:443"), ("https", "https://variable:443"), ("unix", OWN),
        ("https", "https://lab:6443"), ("unix", OWN), ("unix", SYSTEM), ("embedded", "/h"),
    ]  # fmt: skip


def test_each_answer_says_why() -> None:
    assert "--server" in resolve(facts(server="https://a")).why
    assert "CUMULUS_ORCHESTRATOR_URL" in resolve(facts(url="https://a")).why
    assert "CUMULUS_HOME" in resolve(facts(home_is_explicit=True)).why
    assert "lab" in resolve(facts(context=lambda: LAB)).why


def test_a_context_says_as_whom_and_where() -> None:
    found = resolve(facts(context=lambda: LAB))
    assert found == Endpoint("https", "https://lab:6443", "CA", "lab-token", "team", found.why)
    assert resolve(facts(context=lambda: LAB, token="given")).token == "given"


def test_a_server_that_is_named_takes_ca_and_token_of_its_context_and_of_no_other() -> None:
    known = Contexts((LAB, Context("other", "https://b:443", "CB", "b-token"))).of_server
    assert resolve(facts(server="https://B", context=lambda: LAB, context_of=known)).token == "b-token"
    assert resolve(facts(server="https://c", context=lambda: LAB, context_of=known)).token == ""
    said = facts(server="https://b", context_of=known, ca_file="/ca.pem", read=lambda path: f"text of {path}")
    assert resolve(said).ca == "text of /ca.pem"


def test_the_system_daemon_gives_each_user_a_namespace() -> None:
    assert resolve(facts(answers=listening(SYSTEM))).namespace == "ada.l"
    assert resolve(facts(answers=listening(OWN))).namespace == ""


def test_no_store_is_opened_where_a_system_daemon_is_installed() -> None:
    with pytest.raises(CumulusError, match="system daemon"):
        resolve(facts(system_is_installed=True))
    assert resolve(facts(system_is_installed=True, offline=True)).kind == "embedded"
    assert resolve(facts(system_is_installed=True, home_is_explicit=True)).kind == "embedded"


@pytest.mark.parametrize("explicit", [True, False])
def test_no_store_is_opened_whose_daemon_died_and_left_jobs(explicit: bool) -> None:
    died = facts(home_is_explicit=explicit, answers=listening(dead=(OWN,)))
    assert resolve(died).kind == "embedded", "no job is left"
    with pytest.raises(CumulusError, match="died"):
        resolve(died._replace(is_abandoned=lambda: True))
    assert resolve(died._replace(is_abandoned=lambda: True, offline=True)).kind == "embedded"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("https://Lab.example", "https://lab.example:443"), ("https://10.0.0.1:6443/", "https://10.0.0.1:6443"),
        ("https://[::1]:8443", "https://[::1]:8443"), ("unix:///run/x.sock", "unix:/run/x.sock"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
    ],
)  # fmt: skip
def test_addresses(text: str, address: str) -> None:
    assert parse_server(text, "--server") == address


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://lab", "TLS alone"), ("lab:50051", "gRPC"), ("lab", "gRPC"), ("https://", "https://HOST:PORT"),
        ("https://u:p@lab", "https://HOST:PORT"), ("https://lab/path", "https://HOST:PORT"),
        ("https://lab:x", "port"), ("https://lab:70000", "port"), ("unix:x.sock", "whole path"),
        ("https://a\x1b[31m", "https://HOST:PORT"),
    ],
)  # fmt: skip
def test_what_is_no_address_is_said_with_its_source(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        parse_server(text, "CUMULUS_ORCHESTRATOR_URL")
    assert "CUMULUS_ORCHESTRATOR_URL" in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_where_grpc_listens_names_the_server_that_one_is_logged_in_to() -> None:
    known = Contexts((Context("other", "https://lab:1", token="x"), LAB), "lab")
    found = resolve(facts(url="Lab:50051", context_of_host=known.of_host))
    assert found[:5] == ("https", "https://lab:6443", "CA", "lab-token", "team")
    assert "CUMULUS_ORCHESTRATOR_URL" in found.why
    with pytest.raises(UsageError, match="gRPC") as caught:
        resolve(facts(url="elsewhere:50051", context_of_host=known.of_host))
    assert "cumulus login" in str(caught.value.hint)


def test_the_environment_is_read(tmp_path: Path) -> None:
    found = find(variables={"CUMULUS_HOME": str(tmp_path), "CUMULUS_TOKEN": "t"})
    assert (found.kind, found.address) == ("embedded", str(tmp_path))
    found = find(variables={"CUMULUS_ORCHESTRATOR_URL": "https://lab:1", "CUMULUS_TOKEN": "t"})
    assert (found.kind, found.address, found.token) == ("https", "https://lab:1", "t")


def test_contexts_are_kept_for_their_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "cumulus" / "contexts.json"
    assert contexts.read(file) == Contexts()
    made = Contexts().with_context(LAB).with_context(Context("b", "https://b:443"))
    contexts.write(file, made)
    assert contexts.read(file) == made
    assert made.current == Context("b", "https://b:443")
    assert file.stat().st_mode & 0o777 == 0o600
    assert made.using("lab").current == LAB
    assert made.without("b").current is None
    with pytest.raises(NotFound, match="no context nix"):
        made.using("nix")
    file.chmod(0o644)
    with pytest.raises(CumulusError, match="other users can read it"):
        contexts.read(file)


@pytest.mark.parametrize("text", ["", "[]", '{"contexts": [{"name": "a"}]}', '{"contexts": 3}', "apiVersion: v1"])
def test_a_damaged_list_of_contexts_is_one_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "contexts.json"
    file.touch(mode=0o600)
    file.write_text(text)
    with pytest.raises(CumulusError, match="not a list of contexts"):
        contexts.read(file)
