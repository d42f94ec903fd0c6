"""What every verb starts with: whom it asks, its client, and a note if no daemon is there to act."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cumulus import environment, paths
from cumulus.cli import terminal
from cumulus.errors import CumulusError
from cumulus.resources.key import DEFAULT_NAMESPACE
from cumulus.resources.quantity import format_duration

if TYPE_CHECKING:
    from cumulus.client.base import Client, ServerState
    from cumulus.client.endpoint import Endpoint

SILENT_SECONDS = 15.0
"""A leader renews every two seconds, and a lapsed one is followed by another within a few more."""


class Choice(NamedTuple):
    """Of whom to ask, by the flags before the verb."""

    server: str = ""
    context: str = ""
    offline: bool = False


_choice = Choice()


def choose(choice: Choice) -> None:
    """For the command that this process runs now."""
    global _choice
    _choice = choice
    endpoint.cache_clear()


@functools.cache
def endpoint() -> Endpoint:
    """Whom the command asks. Raises CumulusError where nobody is there to be asked."""
    from cumulus.client.connect import is_abandoned
    from cumulus.client.endpoint import find

    server, context, offline = _choice
    return find(server, context=context, offline=offline, is_abandoned=lambda: is_abandoned(paths.home()))


def namespace(given: str = "") -> str:
    """The namespace `given`, else the default one of whom the command asks."""
    return given or endpoint().namespace or DEFAULT_NAMESPACE


def client(*, create: bool = False, quiet: bool = False, objects: bool = True) -> Client:
    """The client of this command, to be used with `with`. Without `create`, a state directory that is not there is not
    made: there is no object then, and stderr says so, unless `quiet`. Without `objects` its store stays closed until
    one is asked for. Raises StoreUnavailable."""
    from cumulus.client.connect import connect

    found = endpoint()
    opened = connect(found, create=create, objects=objects)
    if found.kind == "embedded" and objects and not (create or quiet):
        _note_no_store(Path(found.address))
    return opened


def check_daemon(client: Client) -> None:
    """Raises CumulusError where no daemon would run a job."""
    if endpoint().kind == "embedded" and (state := client.server_state()).pid is None:
        raise CumulusError(
            f"no daemon runs on {state.home}, so nothing would run the job", hint="start one: cumulus serve &"
        )


def note_if_no_daemon(then: str, client: Client) -> None:
    """Say on stderr when nothing will act on what was just stored. `then`: what happens once a daemon runs."""
    state = client.server_state()
    if state.pid is None:
        terminal.note(f"No daemon runs on {state.home}; {then} once `cumulus serve` is started.")


def note_servers_engine() -> None:
    """Say on stderr where the engine that this command's environment names is not the one that is asked."""
    from cumulus.client.endpoint import names_an_engine

    if names_an_engine() and endpoint().kind != "embedded":
        terminal.note(
            f"{environment.SWARM_MANAGER} counts for a daemon where it starts, which is asked here; "
            "`cumulus --offline …` asks the engine that it names for you."
        )


class Freshness:
    """Says once, on stderr, where nobody keeps what is shown up to date: no daemon runs, or none renews its lead."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._said = False

    def look(self) -> None:
        problem = "" if self._said else _problem(self._client.server_state())
        if problem:
            self._said = True
            terminal.note(problem)


def _problem(state: ServerState) -> str:
    silent = state.silent_seconds
    if state.pid is None:
        if silent is None:
            return f"No daemon has ever run on {state.home}; things happen once `cumulus serve` is started."
        return f"No daemon runs on {state.home}: what is shown is as the last one left it, {_age(silent)} ago."
    if silent is not None and silent >= SILENT_SECONDS:
        return (
            f"The daemon on {state.home} has not renewed its lead for {_age(silent)}: what is shown may be that old; "
            "see `cumulus doctor`."
        )
    return ""


def _note_no_store(home: Path) -> None:
    from cumulus.client.connect import has_store

    if not has_store(home):
        terminal.note(f"There is no store in {home} yet; `cumulus apply` or `cumulus serve` makes it.")


def _age(seconds: float) -> str:
    return format_duration(max(0.0, seconds))
