"""Gives a call its interpreter on the node: `ensure`. Standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from cumulus.environments.document import EnvironmentDocument
from cumulus.errors import EnvironmentFailed
from cumulus.lib.unix_user import UnixUser

SERVICE_USER = "cumulus-build"
"""Who builds what users share; scripts/install-system.sh makes it. Without it users have only their own."""

_BUILDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "builder.py")
_OWN = os.path.join(".cache", "cumulus", "environments")
_LOOK = 0.2
# How to reach an index; not whatever else the daemon was started with.
_TOLD = re.compile(
    r"(?:PIP_|UV_|SSL_CERT_|(?:https?|all|no)_proxy$).*|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE", re.IGNORECASE
)


def ensure(
    document: EnvironmentDocument,
    cache: str,
    user: UnixUser | None = None,
    *,
    say: Callable[[str], None] = lambda line: None,
    check: Callable[[], None] = lambda: None,
    hint: str = "",
    patience: float = 1800.0,
    environment: Mapping[str, str] | None = None,
) -> str:
    """The path of a Python interpreter that has what the document asks for. Builds it where it is not there yet, which
    can take minutes.

    `user` is who will run it, None for this process' own user. Where that is another one, this process is root: what
    is `hashed` is built by the user `cumulus-build` in `cache`, from wheels alone, and all users share it, read-only.
    Whatever may run a build is built as `user`, below their home, and is theirs. So is all where the machine has no
    user `cumulus-build`.

    `say` gets a line of progress, for the call's log. `check` is called a few times a second: what it raises ends the
    build. `hint` is a Python that the user of the call named. `patience` bounds the seconds for one build and for the
    wait for another process that builds the same. `environment` says how to reach an index (PIP_…, UV_…, proxies),
    this process' own by default.

    Raises `EnvironmentFailed`, whose text is for the user, and what `check` raises.
    """
    given = os.environ if environment is None else environment
    variables = told(given, private=user is None)
    request: dict[str, Any] = {"document": document.fields(), "hint": hint, "patience": patience}
    if user is None:
        alone = {
            "user": None, "shared": False, "cache": cache, "home": os.path.expanduser("~"),
            "environment": {**variables, "PATH": given.get("PATH") or os.defpath},
        }  # fmt: skip
        return _ask({**request, **alone}, say, check)
    service = _service_user()
    if document.hashed and service is not None:
        _hand_over(cache, service)
        shared: dict[str, Any] = {
            "user": service, "shared": True, "cache": cache, "home": "", "hint": "",
            "environment": {**variables, "PATH": service.path},
        }  # fmt: skip
        try:
            return _ask({**request, **shared}, say, check)
        except EnvironmentFailed as error:
            say(f"environment: it can't be shared ({error}); building it as {user.name}")
    own: dict[str, Any] = {
        "user": user, "shared": False, "cache": os.path.join(user.home, _OWN), "home": user.home,
        "environment": {**variables, **user.variables},
    }  # fmt: skip
    return _ask({**request, **own}, say, check)


def _ask(request: dict[str, Any], say: Callable[[str], None], check: Callable[[], None]) -> str:
    builder = subprocess.Popen(
        [sys.executable, "-I", "-S", "-X", "utf8", _BUILDER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/", start_new_session=True,
    )  # fmt: skip
    assert builder.stdin is not None
    assert builder.stdout is not None
    assert builder.stderr is not None
    try:
        with contextlib.suppress(BrokenPipeError), builder.stdin:
            builder.stdin.write(json.dumps(request).encode())
        last = _relay(builder, say, check)
        answer = builder.stdout.read() if builder.returncode == 0 else b""
    finally:
        # What it started is in its session.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(builder.pid, signal.SIGKILL)
        builder.wait()
        builder.stdout.close()
        builder.stderr.close()
    try:
        found = json.loads(answer)
    except ValueError:
        raise EnvironmentFailed(f"the builder of environments failed: {last or 'it says nothing'}") from None
    if "python" not in found:
        raise EnvironmentFailed(str(found.get("error")), hint=found.get("hint"))
    return str(found["python"])


def _relay(builder: subprocess.Popen[bytes], say: Callable[[str], None], check: Callable[[], None]) -> str:
    """Pass on what the builder says until it has ended. Returns its last line."""
    assert builder.stderr is not None
    os.set_blocking(builder.stderr.fileno(), False)
    rest, last = b"", ""
    with selectors.DefaultSelector() as selector:
        selector.register(builder.stderr, selectors.EVENT_READ)
        while True:
            ended = builder.poll() is not None
            selector.select(0 if ended else _LOOK)
            check()
            more = None
            with contextlib.suppress(BlockingIOError):
                more = os.read(builder.stderr.fileno(), 1 << 16)
            *lines, rest = (rest + (more or b"")).split(b"\n")
            for line in lines:
                last = line.decode("utf-8", "replace")
                say(last)
            if ended and not more:
                return last
            if more == b"":
                # It closed the pipe and is about to end.
                builder.wait()


def told(environment: Mapping[str, str], *, private: bool) -> dict[str, str]:
    """The variables that say how to reach an index; none with an account in it for another user's process."""
    told = {name: value for name, value in environment.items() if _TOLD.fullmatch(name)}
    return {name: value for name, value in told.items() if private or "@" not in value}


def _service_user() -> UnixUser | None:
    import pwd

    try:
        return UnixUser.find(pwd.getpwnam(SERVICE_USER).pw_uid)
    except KeyError:
        return None


def _hand_over(cache: str, service: UnixUser) -> None:
    """Make the directory that users share, the service user's."""
    try:
        os.makedirs(cache, mode=0o755, exist_ok=True)
        descriptor = os.open(cache, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_uid != service.uid:
                os.fchown(descriptor, service.uid, service.gid)
            os.fchmod(descriptor, 0o755)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise EnvironmentFailed(f"the directory of shared environments: {error.strerror}: {error.filename}") from None
