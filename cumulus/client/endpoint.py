"""Whom does a client ask? One function of flags, environment and files, and what gathers those.

`resolve` decides and says why; `find` looks around and asks it. Standard library only: every command begins here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from cumulus import environment, paths
from cumulus.client import contexts
from cumulus.client.contexts import Context
from cumulus.errors import CumulusError, UsageError
from cumulus.lib.host import object_name

GRPC_PORT = 50051


class Endpoint(NamedTuple):
    """Whom to ask, and as whom."""

    kind: Literal["unix", "https", "embedded"]
    address: str
    """The path of a socket, `https://HOST:PORT`, or the state directory whose store is opened."""
    ca: str = ""
    """The certificates, as PEM, that the server's must be signed by; "" for those that the system trusts."""
    token: str = ""
    namespace: str = ""
    """The namespace of commands that name none; "": default."""
    why: str = ""
    """What chose it, for people."""


class EndpointFacts(NamedTuple):
    """All that the choice depends on. What takes a file to read is a function, called where it matters."""

    home: str
    home_is_explicit: bool = False
    server: str = ""
    """--server"""
    server_source: str = "--server"
    """How who gave `server` calls it."""
    named: Callable[[], Context] | None = None
    """--context: that one, where it is given."""
    url: str = ""
    """CUMULUS_ORCHESTRATOR_URL"""
    token: str = ""
    ca_file: str = ""
    offline: bool = False
    user: str = ""
    """This user's name."""
    context: Callable[[], Context | None] = lambda: None
    """The current one."""
    context_of: Callable[[str], Context | None] = lambda server: None
    """One of that server."""
    context_of_host: Callable[[str], Context | None] = lambda host: None
    """One of a server on that host."""
    read: Callable[[str], str] = lambda path: ""
    """The text of a file."""
    answers: Callable[[str], bool | None] = lambda path: None
    """Whether a daemon listens at a socket: None where there is none, False where its daemon is dead."""
    is_abandoned: Callable[[], bool] = lambda: False
    """Whether the store of `home` says that jobs run, and no daemon is there."""
    system_is_installed: bool = False
    may_serve: bool = True
    """Whether a daemon could run here, and a store be opened: on Linux."""


def find(
    server: str = "", *, context: str = "", offline: bool = False, variables: Mapping[str, str] | None = None,
    is_abandoned: Callable[[], bool] = lambda: False, source: str = "--server",
) -> Endpoint:  # fmt: skip
    """The endpoint of this process. `server`, `context` and `offline` are flags of the same name; `source` is what
    errors call `server`. Raises CumulusError."""
    if bool(server) + bool(context) + offline > 1:
        raise UsageError("--server, --context and --offline each name whom to ask: give one of them")
    given = os.environ if variables is None else variables
    file = paths.contexts_file()
    return resolve(
        EndpointFacts(
            home=paths.home_text(given.get(environment.HOME, "")),
            home_is_explicit=bool(given.get(environment.HOME)),
            server=server,
            server_source=source,
            named=(lambda: contexts.read(file).named(context)) if context else None,
            url=given.get(environment.SERVER_URL, ""),
            token=checked_token(given.get(environment.TOKEN, ""), environment.TOKEN),
            ca_file=given.get(environment.CA_FILE, ""),
            offline=offline,
            user=_user() if sys.platform == "linux" else "",
            context=lambda: contexts.read(file).current,
            context_of=lambda server: contexts.read(file).of_server(server),
            context_of_host=lambda host: contexts.read(file).of_host(host),
            read=text_of,
            answers=_answers,
            is_abandoned=is_abandoned,
            system_is_installed=any(map(os.path.exists, paths.SYSTEM_UNITS)),
            may_serve=sys.platform == "linux",
        )
    )


def given_token() -> str:
    """The token in this process's environment, "" where there is none."""
    return checked_token(os.environ.get(environment.TOKEN, ""), environment.TOKEN)


def checked_token(text: str, source: str) -> str:
    """The token without the white space around it, as a file's last line end. Raises UsageError, with `source`, for
    what no header can hold."""
    token = text.strip()
    if not token.isascii() or any(c.isspace() or not c.isprintable() for c in token):
        raise UsageError(f"{source} is no token: a token is one word of ASCII characters", hint="copy it again, whole")
    return token


def resolve(facts: EndpointFacts) -> Endpoint:
    """The endpoint. Raises UsageError for an address that is none, CumulusError where nobody is there to be asked and
    the store must not be opened instead."""
    if facts.offline:
        return _embedded(facts, "--offline")
    if facts.named is not None:
        return _of_context(facts, facts.named(), "--context")
    for given, source in ((facts.server, facts.server_source), (facts.url, environment.SERVER_URL)):
        if given:
            return _remote(facts, given, source)
    if facts.home_is_explicit:
        return _own(facts, environment.HOME) or _embedded(facts, f"{environment.HOME}, where no daemon listens")
    if context := facts.context():
        return _of_context(facts, context, f"the current context, {context.name}")
    return (
        _own(facts, "the state directory")
        or _system(facts)
        or _embedded(facts, "no daemon listens, and there is no context")
    )


def parse_server(text: str, source: str) -> str:
    """`https://HOST[:PORT]` or `unix:PATH`, as a person wrote it, in its one form. Raises UsageError, with `source`."""
    text = text.strip()
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        while path.startswith("//"):
            path = path[1:]
        if not path.startswith("/"):
            raise UsageError(f"{source} must name the socket by its whole path, not {path!r}")
        return f"unix:{path}"
    scheme, found, rest = text.partition("://")
    if found and scheme.lower() == "https":
        host, _, path = rest.partition("/")
        if not host or "@" in host or path or any(c.isspace() or not c.isprintable() for c in host):
            raise UsageError(f"{source} must be https://HOST:PORT, not {text!r}")
        name, port = split_host(host)
        check_port(port, source)
        return f"https://{name.lower()}:{port or 443}"
    if found:
        raise UsageError(
            f"{source} names {scheme}://, and a server is asked over TLS alone", hint="write https://HOST:PORT"
        )
    raise UsageError(
        f"{source} is {text!r}, a gRPC address, and there is no context of that server",
        hint="make one: cumulus login https://HOST:PORT; or write the address of the HTTP API here",
    )


def check_port(port: str, source: str) -> None:
    """Refuse a port that is none; "" stands for the usual one. Raises UsageError, with `source`."""
    if port and not (port.isdecimal() and 0 < int(port) < 65536):
        raise UsageError(f"{source} names the port {port!r}; a port is a number from 1 to 65535")


def split_host(text: str) -> tuple[str, str]:
    """`HOST[:PORT]`, an IPv6 address in its brackets, as its two parts; "" for a port that it does not name."""
    if text.startswith("["):
        host, _, rest = text.partition("]")
        return f"{host}]", rest.removeprefix(":")
    host, _, port = text.partition(":")
    return host, port


def _remote(facts: EndpointFacts, given: str, source: str) -> Endpoint:
    if given and "://" not in given and not given.startswith("unix:"):
        # Where its gRPC listens, as `cumulus.sdk` takes it. A context says where the same server's API is.
        host, _ = split_host(given.strip())
        if context := facts.context_of_host(host):
            return _of_context(facts, context, f"{source}, whose host is that of the context {context.name}")
    address = parse_server(given, source)
    if address.startswith("unix:"):
        return Endpoint("unix", address.removeprefix("unix:"), why=source)
    context = facts.context_of(address)
    ca = facts.read(facts.ca_file) if facts.ca_file else context.ca if context else ""
    token = facts.token or (context.token if context else "")
    namespace = context.namespace if context else ""
    return Endpoint("https", address, ca, token, namespace, source)


def _of_context(facts: EndpointFacts, context: Context, why: str) -> Endpoint:
    return Endpoint("https", context.server, context.ca, facts.token or context.token, context.namespace, why)


def _own(facts: EndpointFacts, source: str) -> Endpoint | None:
    """The daemon of this state directory. Raises CumulusError where it died and left jobs."""
    path = os.path.join(facts.home, paths.API_SOCKET)
    alive = facts.answers(path)
    if alive:
        return Endpoint("unix", path, why=f"{source}: its daemon listens")
    if alive is False and facts.is_abandoned():
        raise CumulusError(
            f"the daemon of {facts.home} died, and its jobs run on with nobody to look after them",
            hint="start it again: cumulus serve; or look at the store as it was left: cumulus --offline …",
        )
    return None


def _system(facts: EndpointFacts) -> Endpoint | None:
    """The system daemon. Raises CumulusError where it is installed and does not run."""
    if facts.answers(paths.SYSTEM_SOCKET):
        return Endpoint("unix", paths.SYSTEM_SOCKET, namespace=object_name(facts.user), why="the system daemon listens")
    if facts.system_is_installed:
        raise CumulusError(
            "the system daemon of this machine does not answer",
            hint="start it: systemctl start cumulus; for a state directory of your own set CUMULUS_HOME",
        )
    return None


def _embedded(facts: EndpointFacts, why: str) -> Endpoint:
    if not facts.may_serve:
        raise CumulusError(
            "no server is named, and none can run on this system: nodes and servers run Linux",
            hint="log in to one: cumulus login https://HOST:PORT",
        )
    return Endpoint("embedded", facts.home, why=why)


def _answers(path: str) -> bool | None:
    if sys.platform != "linux":
        return None
    from cumulus.lib import locks, unix_socket

    try:
        # One that was stopped, as by SIGSTOP, takes connections and answers nobody.
        return not locks.is_stopped(unix_socket.listener(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ConnectionRefusedError:
        return False
    except PermissionError:
        # Another user's. To say so is the connection's matter.
        return True
    except OSError as error:
        raise CumulusError(f"{path} cannot be asked: {error.strerror}") from None


def text_of(path: str) -> str:
    """The text of the file that CUMULUS_CA_FILE names. Raises CumulusError."""
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CumulusError(f"{environment.CA_FILE}: {path} cannot be read: {error}") from None


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def names_an_engine() -> bool:
    """Whether the environment of this process names a Swarm's engine, which no server that is asked looks at."""
    return bool(os.environ.get(environment.SWARM_MANAGER))
