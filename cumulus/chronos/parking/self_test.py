"""Parks a small program of each framework on this node, and notes which come back with their data: nothing else is ever
parked here. `chronos_cli park-test`.

Each runs in a lease of its own, as any program does: the monitor parks it. One that does not come back is lost, and it
alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cumulus.chronos import enforce
from cumulus.chronos.contract import Device, EndReason, Lease, LeaseRequest, LeaseState, Proof, variables
from cumulus.chronos.device_processes import DeviceProcesses
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.parking import rows, test_program
from cumulus.clock import timestamp
from cumulus.errors import ChronosError
from cumulus.lib import printable
from cumulus.lib.line_process import read_line
from cumulus.resources.enforcement import Sharing
from cumulus.resources.reasons import ParkingReason

FRAMEWORKS = tuple(test_program.FRAMEWORKS)

MEMORY_BYTES = 4 * 2**30
_COMPUTE = 100
_LEASE_SECONDS = 900.0
_READY_SECONDS = 180.0
_ANSWER_SECONDS = 60.0
_MOVE_SECONDS = 240.0
_PAUSE = 0.1
_LONGEST_LINE = 65536
_INCONCLUSIVE = (ParkingReason.NO_MEMORY, ParkingReason.MEMORY_LIMIT, ParkingReason.INTERRUPTED)
"""Refusals that say nothing of the framework."""


UNSURE: Mapping[str, str] = {"jax": "not every program of it does: some ended while they were parked"}
"""Frameworks of which one program that comes back proves nothing, and why."""

_Prepare = Callable[[Lease, Device, Path], Mapping[str, str]]


class Inconclusive(ChronosError):
    """The test could not be made: nothing is proven, and nothing disproven."""


class SelfTest:
    """`run` tests one framework on one device. Its `program` is run by `python`."""

    def __init__(
        self,
        ledger: Ledger,
        device: Device,
        *,
        python: str = sys.executable,
        program: Path = Path(test_program.__file__),
        memory_bytes: int = MEMORY_BYTES,
        prepare: _Prepare = enforce.environment,
    ) -> None:
        """`prepare`: what holds a program to its lease."""
        self._ledger = ledger
        self._device = device
        self._python = python
        self._program = program
        self._memory_bytes = memory_bytes
        self._prepare = prepare

    def run(self, framework: str) -> Proof | None:
        """What was shown, which the ledger remembers; None where the framework is not there. Raises `Inconclusive`,
        and what `Ledger.grant` raises."""
        share = min(self._memory_bytes, self._device.memory_bytes)
        request = LeaseRequest(
            f"park-test-{uuid.uuid4()}", self._device.index, share, _COMPUTE, _LEASE_SECONDS, user="park-test",
            grace=0.0, name="park-test", sharing=Sharing.PARKABLE,
        )  # fmt: skip
        lease = self._ledger.grant(request)
        try:
            found = self._in_lease(lease, framework)
        finally:
            self._ledger.release(lease.id)
        if found is None:
            return None
        holds, message = found
        if holds and framework in UNSURE:
            holds, message = False, f"{message}, but {UNSURE[framework]}"
        proof = Proof(
            self._device.name, self._driver(), framework, holds, printable.one_line(message),
            timestamp(self._ledger.clock.now()),
        )  # fmt: skip
        with self._ledger.database.write() as tx:
            rows.record_proofs(tx, [proof])
        return proof

    def _in_lease(self, lease: Lease, framework: str) -> tuple[bool, str] | None:
        prepared = variables.of_lease(lease, self._device) | dict(self._prepare(lease, self._device, self._ledger.home))
        ours = {**prepared, variables.HOME: str(self._ledger.home)}
        program = _Program([self._python, str(self._program), framework], variables.merge(os.environ, ours))
        try:
            self._ledger.attach(lease.id, program.pid, lease.token)
            said = program.ask("go", _READY_SECONDS)
            if "missing" in said:
                return None
            if not said.get("ready"):
                why = printable.one_line(str(said.get("failed", "it ended")))
                raise Inconclusive(f"a program of {framework} does not run: {why}")
            version = f"{framework} {said['version']}"
            parked = self._moved(self._ledger.park(lease.id, _LEASE_SECONDS, unproven=True))
            if parked.state is not LeaseState.PARKED:
                return self._not_parked(parked, version)
            back = self._moved(self._ledger.unpark(lease.id, _LEASE_SECONDS))
            if back.state is LeaseState.PARKED:
                raise Inconclusive(f"{version} was not brought back: the GPU has no room for it")
            if back.state is not LeaseState.ACTIVE:
                reason = back.end_reason or EndReason.LOST
                return False, f"{version} did not come back ({reason})"
            said = program.ask("again", _ANSWER_SECONDS)
            if not (said.get("same") and said.get("works")):
                return False, f"{version} came back, and {'its data had changed' if said else 'did not answer'}"
            size, took = parked.parked_bytes / 2**20, parked.moved_in + back.moved_in
            return True, f"{version}: {size:.0f} MiB there and back in {took:.1f} s"
        finally:
            program.kill()

    def _not_parked(self, lease: Lease, version: str) -> tuple[bool, str]:
        refused = lease.park_refused
        if refused is None or refused.reason in _INCONCLUSIVE:
            why = refused.message if refused else f"the lease has ended ({lease.end_reason})"
            raise Inconclusive(f"{version} was not parked: {why}")
        return False, f"{version} was not parked: {refused.message}"

    def _moved(self, lease: Lease) -> Lease:
        deadline = time.monotonic() + _MOVE_SECONDS
        while lease.state in (LeaseState.PARKING, LeaseState.UNPARKING):
            if time.monotonic() > deadline:
                raise Inconclusive(f"lease {lease.id} is {lease.state.lower()} for {_MOVE_SECONDS:.0f} s")
            time.sleep(_PAUSE)
            lease = self._ledger.get(lease.id) or lease
        return lease

    def _driver(self) -> str:
        """The version that the monitor will find too."""
        reader = DeviceProcesses(self._ledger.clock)
        try:
            found = reader.clients([self._device.id])
        finally:
            reader.close()
        return (found[1] if found else "") or self._device.driver


class _Program:
    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
        )
        self.pid = self._process.pid

    def ask(self, word: str, seconds: float) -> dict[str, Any]:
        """Its answer; empty where there is none in time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{word}\n".encode())
            said = json.loads(read_line(self._process.stdout, seconds, _LONGEST_LINE))
        except (OSError, ValueError):
            return {}
        return said if isinstance(said, dict) else {}

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def run_all(
    ledger: Ledger, device: Device, frameworks: tuple[str, ...], python: str, say: Callable[[str], None]
) -> list[Proof]:
    """Those of the frameworks that are there, one after the other."""
    test = SelfTest(ledger, device, python=python)
    found = []
    for framework in frameworks:
        try:
            proof = test.run(framework)
        except Inconclusive as error:
            say(f"{framework}: nothing is shown: {error}")
            continue
        if proof is None:
            say(f"{framework} is not installed for {python}")
            continue
        say(f"{framework} {'comes back' if proof.holds else 'cannot be parked'}: {proof.message}")
        found.append(proof)
    return found
