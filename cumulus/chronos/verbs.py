"""What the verbs of `chronos_cli` do. Each takes the parsed options and returns the exit code.

`options.open_ledger` gives the ledger of a home, `options.tell` takes what --json answers.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import cumulus
from cumulus.chronos import lease_args, names, printers
from cumulus.chronos.contract import (
    Device,
    Lease,
    LeasedTotal,
    LeaseRequest,
    LeaseState,
    Parking,
    Proof,
    variables,
    wire,
)
from cumulus.chronos.contract.node import checkpoint_places
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.snapshot import ProcessSnapshot
from cumulus.clock import SystemClock, to_the_second
from cumulus.errors import CumulusError, InsufficientShare, NoSuchLease, ParkRefused, UsageError
from cumulus.lib import safe_output
from cumulus.lib.processes import boot_id
from cumulus.resources.quantity import format_bytes, format_duration

if TYPE_CHECKING:
    from cumulus.chronos.usage import NodeUsage

OpenLedger = Callable[[Path | None], Ledger]


def lease_request(options: argparse.Namespace, ledger: Ledger) -> LeaseRequest:
    """What `create` with these options asks of `ledger`."""
    device = lease_args.choose(ledger.devices(), options.device)
    return lease_args.request(
        device, options.memory, options.duration, compute=options.compute, grace=options.grace, user=options.user,
        id=options.id, owner=options.owner, start_within=options.start_within, name=options.name or "",
        overuse=options.overuse, sharing=options.sharing,
    )  # fmt: skip


def stats(options: argparse.Namespace) -> int:
    ledger = _ledger(options)
    rows, used = _measured(ledger)
    seen = ledger.watched()
    if options.json:
        devices = [printers.usage_json(*row, used.devices.get(row[0].id)) for row in rows]
        _tell(
            options, node=_node(), devices=devices, leases=[printers.lease_usage_json(one) for one in used.leases],
            parking=wire.parking_json(ledger.parking()),
        )  # fmt: skip
    else:
        printers.usage_table(rows, sys.stdout)
        if seen.figures:
            print()
            printers.figures_table([device for device, _, _ in rows], seen.figures, sys.stdout)
        numbers = {device.id: device.index for device, _, _ in rows}
        for process in seen.unleased:
            where = f"device {numbers[process.device_id]}" if process.device_id in numbers else process.device_id
            print(f"{process} holds {format_bytes(process.memory_bytes)} of {where} without a lease")
        if used.leases:
            print()
            printers.lease_usage_table(used.leases, sys.stdout)
        for line in printers.parking_lines(ledger.parking()):
            print(line)
    return 0


def metrics(options: argparse.Namespace) -> int:
    from cumulus.chronos import metrics

    safe_output.block(sys.stdout, metrics.exposition(*_measured(_ledger(options))))
    return 0


def _measured(ledger: Ledger) -> tuple[list[tuple[Device, LeasedTotal, int]], NodeUsage]:
    """The devices with what of them is leased, by how many leases; and what is used."""
    from cumulus.chronos import usage

    leases = ledger.list()
    rows = [(d, ledger.usage(d.index), sum(x.device_id == d.id for x in leases)) for d in _some_devices(ledger)]
    return rows, usage.measure(ledger.database, [device for device, _, _ in rows], leases)


def devices(options: argparse.Namespace) -> int:
    ledger = _ledger(options)
    if options.refresh:
        ledger.rediscover()
    devices = ledger.devices() if options.json else _some_devices(ledger)
    if options.json:
        seen = ledger.watched()
        _tell(
            options, node=_node(), devices=[wire.device_json(d) for d in devices],
            conditions=[wire.health_json(condition) for condition in ledger.health()],
            figures={id: wire.figures_json(each) for id, each in seen.figures.items()},
            unleased=[wire.unleased_json(process) for process in seen.unleased],
            parking=wire.parking_json(ledger.parking()),
        )  # fmt: skip
    else:
        printers.devices_table(devices, sys.stdout)
        for note in printers.size_notes(devices):
            print(note)
        for condition in ledger.health():
            if not condition.status:
                print(f"{condition.type}: {condition.message}")
    return 0


def create(options: argparse.Namespace) -> int:
    ledger = _ledger(options)
    lease = ledger.grant(lease_request(options, ledger))
    if lease.state is not LeaseState.ACTIVE and not options.json:
        raise NoSuchLease(f"lease {lease.id} has ended: {lease.end_reason}", hint="an id is used once; take another")
    if options.json:
        _tell(options, lease=wire.lease_json(lease))
    elif options.quiet:
        print(lease.id)
    else:
        name = lease_args.choose(ledger.devices(), lease.device_id).name
        print(f"partition {lease.id}")
        print(f"  {_share(lease)} of device {lease.device} ({name}) for {format_duration(lease.expires_in)}")
        print(f"  run a program in it with: chronos_cli exec {lease.id} -- COMMAND")
    return 0


def list_(options: argparse.Namespace) -> int:
    leases = [x for x in _ledger(options).list(ended=options.all) if options.user in (None, x.user)]
    if options.json:
        _tell(options, leases=[wire.lease_json(x) for x in leases])
    elif leases:
        printers.leases_table(leases, sys.stdout)
    else:
        print("no leases", file=sys.stderr)
    return 0


def get(options: argparse.Namespace) -> int:
    ledger = _ledger(options)
    lease = ledger.get(_meant(options, ledger, ended=True))
    if options.json:
        _tell(options, lease=wire.lease_json(lease) if lease else None)
    elif lease is None:
        raise _unknown(options.partition)
    else:
        shown = wire.lease_json(lease) | {"expiresIn": format_duration(max(0.0, lease.expires_in))}
        for name, value in shown.items():
            text = "" if value is None else to_the_second(value) if name.endswith("At") else value
            print(f"{name}: {text}")
    return 0


def begin(options: argparse.Namespace) -> int:
    ledger = _ledger(options)
    lease = ledger.begin(_meant(options, ledger))
    if options.json:
        _tell(options, lease=wire.lease_json(lease) if lease else None)
    elif lease is None:
        raise _unknown(options.partition)
    else:
        print(f"partition {lease.id} ends in {format_duration(max(0.0, lease.expires_in))}")
    return 0


def renew(options: argparse.Namespace) -> int:
    ledger = _ledger(options)
    lease = ledger.renew(_meant(options, ledger), options.duration, token=options.token)
    if options.json:
        _tell(options, lease=wire.lease_json(lease))
    else:
        print(f"partition {lease.id} ends in {format_duration(lease.expires_in)}")
    return 0


def park(options: argparse.Namespace) -> int:
    ledger = _ledger(options)
    lease = ledger.park(_meant(options, ledger), options.park_for, freeze=options.freeze, token=options.token)
    if options.json:
        _tell(options, lease=wire.lease_json(lease))
        return 0
    lease = _once_moved(ledger, lease)
    if lease.park_refused is not None:
        raise ParkRefused(f"lease {lease.id} was not parked: {lease.park_refused.message}")
    if lease.state is not LeaseState.PARKED:
        raise NoSuchLease(f"lease {lease.id} has ended: {lease.end_reason}")
    print(f"partition {lease.id} is parked in {format_bytes(lease.parked_bytes)} of main memory")
    print(f"  its program is ended in {format_duration(lease.expires_in)}, unless: chronos_cli unpark {lease.id} TIME")
    return 0


def unpark(options: argparse.Namespace) -> int:
    ledger = _ledger(options)
    lease = ledger.unpark(_meant(options, ledger), options.duration, token=options.token)
    if options.json:
        _tell(options, lease=wire.lease_json(lease))
        return 0
    lease = _once_moved(ledger, lease)
    if lease.state is LeaseState.PARKED:
        raise InsufficientShare(
            f"lease {lease.id} stays parked: its GPU has no room for it, since others hold more than they lease",
            hint="see who with: chronos_cli stats; then ask again",
        )
    if lease.state is not LeaseState.ACTIVE:
        raise NoSuchLease(f"lease {lease.id} has ended: {lease.end_reason}")
    print(f"partition {lease.id} goes on, and ends in {format_duration(lease.expires_in)}")
    return 0


def park_test(options: argparse.Namespace) -> int:
    from cumulus.chronos.parking import check, self_test

    if options.list:
        proofs: Sequence[Proof] = _ledger(options).parking().proofs
    else:
        ledger = _ledger(options)
        device = lease_args.choose(ledger.devices(), options.device)
        check.check_device(device, (), 1, unproven=True)
        frameworks = tuple(options.framework or self_test.FRAMEWORKS)
        # What programs and frameworks say is shown as it comes; what stays is told last.
        tell = (lambda text: None) if options.json else (lambda text: print(text, flush=True))
        proofs = self_test.run_all(ledger, device, frameworks, options.python, tell)
    if options.json:
        _tell(options, proofs=wire.parking_json(Parking(0, 0, tuple(proofs)))["proofs"])
    elif options.list and proofs:
        printers.proofs_table(proofs, sys.stdout)
    elif options.list:
        print("nothing was tested here: no lease is parked", file=sys.stderr)
    return 0 if options.list or any(proof.holds for proof in proofs) else 1


def _once_moved(ledger: Ledger, lease: Lease) -> Lease:
    """The lease once it is neither being parked nor brought back. It goes on where the person waits no longer."""
    while lease.state in (LeaseState.PARKING, LeaseState.UNPARKING):
        time.sleep(0.05)
        lease = ledger.get(lease.id) or lease
    return lease


def release(options: argparse.Namespace) -> int:
    ledger = _ledger(options)
    id = _meant(options, ledger)
    lease = ledger.get(id)
    if lease is not None and lease.state.goes_on:
        _attach_marked(ledger, lease)
        lease = ledger.release(id, token=options.token)
    while options.wait and lease is not None and lease.state is LeaseState.ENDING:
        time.sleep(0.02)
        lease = ledger.get(id)
    if options.json:
        _tell(options, lease=wire.lease_json(lease) if lease else None)
    elif lease is None:
        raise _unknown(options.partition)
    elif lease.state is LeaseState.ENDED:
        print(f"partition {lease.id} has ended ({lease.end_reason})")
    else:
        print(f"partition {lease.id} is ending: its processes have {format_duration(lease.grace)} to stop")
    return 0


def exec_(options: argparse.Namespace) -> int:
    from cumulus.chronos import enforce

    ledger = _ledger(options)
    command = command_of(options)
    lease = ledger.get(names.meant(ledger, options.partition))
    if lease is None:
        raise _unknown(options.partition)
    device = lease_args.choose(ledger.devices(), lease.device_id)
    # Before this process belongs to the lease: what the enforcement starts for the node is not to end with it.
    prepared = enforce.environment(lease, device, ledger.home) if lease.state is LeaseState.ACTIVE else {}
    ledger.attach(lease.id, os.getpid(), lease.token)
    ours = variables.of_lease(lease, device) | prepared
    ledger.close()
    become(command, ours)


def command_of(options: argparse.Namespace) -> list[str]:
    """What `exec` is to run. Raises UsageError."""
    command: list[str] = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise UsageError("exec needs a command", hint="chronos_cli exec PARTITION -- COMMAND")
    return command


CHECKPOINT_PROGRAMS = {"uploader": "__main__.py", "files": "files.py"}
"""Of cumulus.uploader, which lies beside Chronos on each node."""


def checkpoints(options: argparse.Namespace) -> int:
    """Run the program in the place of this process. Root may be whoever's the files are; others are themselves."""
    program = Path(cumulus.__file__).parent / "uploader" / CHECKPOINT_PROGRAMS[options.program]
    os.execv(sys.executable, [sys.executable, "-I", "-X", "utf8", str(program), *options.words])


def channel(options: argparse.Namespace) -> int:
    from cumulus.chronos.channel import serve as reach

    return reach(engine=options.engine)


def become(command: list[str], ours: Mapping[str, str]) -> NoReturn:
    """Run the command in the place of this process, with our variables beside its own."""
    os.environ.update(variables.merge(os.environ, ours))
    _undo_python()
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise CumulusError(f"{command[0]} cannot be run: {error.strerror}") from error


def _undo_python() -> None:
    """What Python changed in this process since it was started: the program gets what its caller has."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    given = {entry.partition(b"=")[0] for entry in Path("/proc/self/environ").read_bytes().split(b"\0")}
    if b"LC_CTYPE" not in given:
        # Where there is no locale Python makes one (PEP 538).
        os.environ.pop("LC_CTYPE", None)


def prepare(options: argparse.Namespace) -> int:
    ledger = _ledger(options)
    prepared = ledger.prepare(_meant(options, ledger))
    if options.json:
        _tell(options, variables=dict(prepared))
    else:
        for name, value in sorted(prepared.items()):
            print(f"{name}={value}")
    return 0


def policy(options: argparse.Namespace) -> int:
    from cumulus.chronos.contract import policy

    ledger = _ledger(options)
    change = policy.PolicyChange(options.overuse, options.unleased, options.exceptions, options.parking_memory)
    found = ledger.set_policy(change) if change else ledger.policy()
    if options.json:
        _tell(options, policy=policy.to_json(found))
    else:
        usual = "End for a part of a device, Report for a whole one"
        print(f"overuse: {found.overuse.value if found.overuse else usual}")
        print(f"processes without a lease: {found.unleased.value}")
        print(f"exceptions: {', '.join(found.exceptions) or 'none'}")
        most = "half of the main memory" if found.parking_memory is None else format_bytes(found.parking_memory)
        print(f"main memory for parked leases: {most}")
    return 0


def serve(options: argparse.Namespace) -> int:
    from cumulus.chronos.serve import Server

    # What a driver prints, say, must not be taken for an answer.
    sink = os.dup(1)
    os.dup2(2, 1)
    return Server(_ledger(options), sink=sink).run()


def serve_users(options: argparse.Namespace) -> int:
    from cumulus.chronos.users import serve_users

    if os.geteuid() != 0:
        raise UsageError("serve-users answers every user from root's ledger, and needs root for that")
    try:
        return serve_users(_ledger(options).home, options.socket, creators=options.may_create)
    except OSError as error:
        raise CumulusError(f"{options.socket} cannot be listened at: {error.strerror}") from None


def monitor(options: argparse.Namespace) -> int:
    from cumulus.chronos import monitor_control, monitor_service
    from cumulus.chronos.monitor import Monitor

    home = _ledger(options).home
    if options.once:
        with contextlib.closing(Ledger(home, start_monitor=False)) as ledger:
            Monitor(ledger).step()
        return 0
    if options.detach:
        monitor_control.ensure_running(home)
        return 0
    return monitor_service.run(home, options.idle, take_over=options.take_over)


def _attach_marked(ledger: Ledger, lease: Lease) -> None:
    """Processes that only carry the lease's variable are ended with it too, though nobody attached them."""
    snapshot = ProcessSnapshot(home=ledger.home)
    for process in snapshot.identities(snapshot.marked(lease.id) - {os.getpid()}):
        try:
            ledger.attach(lease.id, process.pid, lease.token)
        except CumulusError:
            # It has just gone, or the lease has just ended.
            continue


def _some_devices(ledger: Ledger) -> Sequence[Device]:
    devices = ledger.devices()
    if not devices:
        raise lease_args.none_offered()
    return devices


def _ledger(options: argparse.Namespace) -> Ledger:
    open_ledger: OpenLedger = options.open_ledger
    return open_ledger(Path(options.home) if options.home else None)


def _node() -> dict[str, Any]:
    """What a controller wants to know of the node: its version and its boot."""
    return {
        "hostname": os.uname().nodename,
        "chronosVersion": cumulus.__version__,
        "bootId": boot_id(),
        # Of what not every version takes.
        "takes": ["name", "overuse", "policy", "park", "sharing"],
        "checkpointPlaces": checkpoint_places(),
    }


def _share(lease: Lease) -> str:
    return f"{format_bytes(lease.memory_bytes)} memory and {lease.compute / 10:g}% compute"


def _meant(options: argparse.Namespace, ledger: Ledger, *, ended: bool = False) -> str:
    """The id of the lease that is meant. Programs, which ask for JSON, always give the whole of it."""
    return str(options.partition) if options.json else names.meant(ledger, options.partition, ended=ended)


def _unknown(id: str) -> NoSuchLease:
    return NoSuchLease(f"there is no lease {id}", hint="see them with: chronos_cli list --all")


def _tell(options: argparse.Namespace, **fields: Any) -> None:
    tell: Callable[[dict[str, Any]], None] = options.tell
    tell(wire.document(SystemClock(), **fields))
