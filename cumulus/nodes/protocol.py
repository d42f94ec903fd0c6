"""`chronos_cli --json` from the other side: requests as arguments, answers as values, errors as the same exceptions.

The protocol is what `cumulus.chronos.render` writes: its version must be ours, unknown fields are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from cumulus import errors
from cumulus.chronos.contract import Device, EndReason, Health, Lease, LeaseRequest, LeaseState
from cumulus.chronos.render import PROTOCOL
from cumulus.errors import ChronosError, CumulusError, LedgerFull, LedgerUnavailable, NodeUnreachable
from cumulus.nodes.link import Answer
from cumulus.resources.enforcement import Enforcement

DEVICES = ("devices", "--json")

_ERRORS: Mapping[str, type[CumulusError]] = {
    kind.__name__: kind
    for kind in (
        errors.NoSuchDevice,
        errors.InsufficientShare,
        errors.NoSuchLease,
        errors.StaleToken,
        errors.LedgerUnavailable,
        errors.LedgerFull,
        errors.LedgerReplaced,
        errors.UsageError,
    )
}
SUDO_REFUSES = ("sudo:", "Sorry, user ")
_NOT_FOUND = (126, 127)
_KILLED = (-1, 128 + 1, 128 + 2, 128 + 9, 128 + 13, 128 + 15)


def listing(ended: bool) -> Sequence[str]:
    return ("list", "--json", *(("--all",) if ended else ()))


def create(request: LeaseRequest, *, named: bool) -> Sequence[str]:
    """`named`: whether the Chronos there takes names."""
    within = (f"--start-within={_plain(request.start_within)}s",) if request.start_within else ()
    name = (f"--name={request.name}",) if named and request.name else ()
    return (
        "create", "--json", *within, *name, f"--id={request.id}", f"--owner={request.owner}", f"--user={request.user}",
        f"--grace={_plain(request.grace)}s", f"--compute={Decimal(request.compute) / 10:f}%",
        str(request.device), f"{Decimal(request.memory_bytes) / 1000:f}k", f"{_plain(request.seconds)}s",
    )  # fmt: skip


def get(id: str) -> Sequence[str]:
    return ("get", "--json", id)


def begin(id: str) -> Sequence[str]:
    return ("begin", "--json", id)


def renew(id: str, seconds: float, token: int | None) -> Sequence[str]:
    return ("renew", "--json", *_token(token), id, f"{_plain(seconds)}s")


def release(id: str, token: int | None) -> Sequence[str]:
    return ("release", "--json", *_token(token), id)


def answer(node: str, answer: Answer) -> dict[str, Any]:
    """The object that chronos_cli printed. Raises the error that it tells, `NodeUnreachable` where it was ended
    before it answered, and `LedgerUnavailable` where there is no Chronos that speaks this protocol."""
    said = _parsed(answer.output)
    if said is None:
        raise _silence(node, answer)
    if said.get("version") != PROTOCOL:
        raise LedgerUnavailable(
            f"Chronos on {node} speaks version {said.get('version')} of the protocol, this is version {PROTOCOL}",
            hint=f"install this version there: cumulus node setup {node}",
        )
    if "error" in said:
        raise _error(node, said["error"])
    return said


def device(fields: Mapping[str, Any]) -> Device:
    return Device(
        index=fields["index"], id=fields["id"], name=fields["name"], vendor=fields["vendor"], type=fields["type"],
        memory_bytes=fields["memoryBytes"], driver=fields["driver"], enforcement=Enforcement(fields["enforcement"]),
        platform_index=fields["platformIndex"], device_index=fields["deviceIndex"],
        next_memory_bytes=fields.get("nextMemoryBytes", 0),
    )  # fmt: skip


def health(fields: Mapping[str, Any]) -> Health:
    return Health(fields["type"], bool(fields["status"]), fields["reason"], fields["message"])


def lease(fields: Mapping[str, Any]) -> Lease:
    reason = fields["endReason"]
    return Lease(
        id=fields["partitionId"], device=fields["device"], device_id=fields["deviceId"],
        memory_bytes=fields["memoryBytes"], compute=fields["compute"], user=fields["user"], owner=fields["owner"],
        grace=fields["grace"], token=fields["token"], state=LeaseState(fields["state"]),
        granted_at=fields["grantedAt"], expires_at=fields["expiresAt"], expires_in=fields["expiresIn"],
        end_reason=EndReason(reason) if reason else None, ended_at=fields["endedAt"] or "",
        name=fields.get("name", ""),
    )  # fmt: skip


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


def _silence(node: str, answer: Answer) -> ChronosError:
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


def _error(node: str, error: Mapping[str, Any]) -> CumulusError:
    kind = _ERRORS.get(str(error.get("kind")), ChronosError)
    message = str(error.get("message"))
    if kind in (LedgerUnavailable, LedgerFull):
        message = f"on {node}: {message}"
    return kind(message, hint=error.get("hint"))


def _token(token: int | None) -> Sequence[str]:
    return () if token is None else (f"--token={token}",)


def _plain(seconds: float) -> str:
    """Without an exponent, exact to the nanosecond."""
    return f"{Decimal(seconds):.9f}"
