"""Reads a node's answer: the JSON object, the error in it, or the reason why there is none."""

from __future__ import annotations

import json
from typing import Any

from cumulus.chronos.contract import wire
from cumulus.errors import ChronosError, CumulusError, LedgerFull, LedgerUnavailable, NodeUnreachable
from cumulus.nodes.connection import CommandResult

SUDO_REFUSES = ("sudo:", "Sorry, user ")
_NOT_FOUND = (126, 127)
_KILLED = (-1, 128 + 1, 128 + 2, 128 + 9, 128 + 13, 128 + 15)


def parsed(node: str, answer: CommandResult) -> dict[str, Any]:
    """The object that chronos_cli printed. Raises the error that it tells, `NodeUnreachable` where it was ended
    before it answered, and `LedgerUnavailable` where there is no Chronos that speaks this protocol."""
    said = _parsed(answer.output)
    if said is None:
        raise _silence(node, answer)
    if said.get("version") != wire.PROTOCOL:
        raise LedgerUnavailable(
            f"Chronos on {node} speaks version {said.get('version')} of the protocol, this is version {wire.PROTOCOL}",
            hint=f"install this version there: cumulus node setup {node}",
        )
    if "error" in said:
        raise _of_node(node, wire.read_error(said["error"]))
    return said


def _parsed(output: str) -> dict[str, Any] | None:
    """The last line: a log-in shell may have greeted before it."""
    lines = output.strip().splitlines()
    if not lines:
        return None
    try:
        said = json.loads(lines[-1])
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


def _silence(node: str, answer: CommandResult) -> ChronosError:
    said = next(iter((answer.errors.strip() or answer.output.strip()).splitlines()[-1:]), "")[:200]
    if answer.status in _KILLED:
        return NodeUnreachable(f"chronos_cli on {node} was ended before it answered")
    if answer.status in _NOT_FOUND:
        return LedgerUnavailable(
            f"chronos_cli cannot be run on {node}: {said}", hint=f"install it there: cumulus node setup {node}"
        )
    if said.startswith(SUDO_REFUSES):
        return LedgerUnavailable(
            f"chronos_cli may not be run on {node}: {said}",
            hint="allow it with scripts/setup-worker.sh --user USER there, or set spec.ssh.chronosCli",
        )
    return LedgerUnavailable(
        f"chronos_cli on {node} does not answer in JSON: {said or f'exit code {answer.status}'}",
        hint=f"install this version there: cumulus node setup {node}",
    )


def _of_node(node: str, error: CumulusError) -> CumulusError:
    if type(error) in (LedgerUnavailable, LedgerFull):
        return type(error)(f"on {node}: {error}", hint=error.hint)
    return error
