"""Asks the machine's ledger, which is root's, as one of its users: `chronos_cli` for those who can't open it.

`users` is the other side. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from cumulus.chronos.home import SYSTEM_HOME
from cumulus.chronos.settings import LocalSettings
from cumulus.chronos.verbs import become, command_of
from cumulus.errors import CumulusError
from cumulus.lib import safe_output, unix_socket

SOCKET = "/run/chronos/users.sock"


_HERE = ("serve", "serve-users", "monitor", "checkpoints")
"""Verbs that ask nobody."""


def should_ask(options: argparse.Namespace) -> bool:
    """Whether this user asks: they are not root, name no ledger of their own, and the machine has a server for them."""
    if os.geteuid() == 0 or options.home is not None or options.verb in _HERE:
        return False
    return LocalSettings.read().home in (None, SYSTEM_HOME) and os.path.exists(SOCKET)


def run(options: argparse.Namespace, words: Sequence[str]) -> int:
    """The command, by the server. Its exit code. Raises CumulusError where it does not answer."""
    command = command_of(options) if options.verb == "exec" else []
    answer = _ask(["exec", options.partition] if command else words)
    safe_output.block(sys.stdout, answer["out"])
    sys.stdout.flush()
    safe_output.block(sys.stderr, answer["err"])
    if command and answer["code"] == 0:
        become(command, answer["variables"])
    return int(answer["code"])


def _ask(words: Sequence[str]) -> dict[str, Any]:
    try:
        with unix_socket.connect(SOCKET) as connection:
            # Where it is too busy to read that, it says so all the same.
            with suppress(BrokenPipeError):
                connection.sendall(json.dumps({"run": list(words)}).encode() + b"\n")
            with connection.makefile("rb") as answers:
                line = answers.readline()
    except OSError as error:
        raise CumulusError(
            f"{SOCKET} does not answer: {error.strerror}", hint="ask the administrator: systemctl status chronos-users"
        ) from None
    if not line:
        raise CumulusError(f"{SOCKET} gave no answer", hint="ask the administrator: journalctl -u chronos-users")
    answer: dict[str, Any] = json.loads(line)
    return answer
