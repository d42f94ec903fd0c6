"""`chronos_cli`: the node's leases for people, and, with --json, for controllers that come over SSH.

Standard library only: a worker needs nothing else. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import cumulus
from cumulus.chronos import lease_args, names, render
from cumulus.chronos.contract import Device, Lease, LeaseRequest, LeaseState, Usage, variables
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.snapshot import Snapshot
from cumulus.clock import SystemClock, timestamp, to_the_second
from cumulus.errors import CumulusError, NoSuchLease, UsageError
from cumulus.lib import descriptors, safe_output
from cumulus.lib.processes import boot_id
from cumulus.resources.quantity import (
    format_bytes,
    format_duration,
    parse_duration,
    parse_millis,
    parse_share,
)

if TYPE_CHECKING:
    from cumulus.chronos.usage import NodeUse

_EXAMPLES = """\
examples:
  chronos_cli stats                                what each device has free, and what each lease uses
  chronos_cli create 0 0.5 1h30m                   half of device 0 for an hour and a half
  chronos_cli create 0 20Gi 3600 --compute 25%     20 GiB and a quarter of its compute for 3600 seconds
  chronos_cli exec PARTITION -- python train.py    run a program inside the lease; it ends with the lease
  chronos_cli release PARTITION                    give the share back before its time

PARTITION is an id, a name (that of the GPUPartition, or of create --name), or the beginning of one.

Leases are kept in CHRONOS_HOME (default /var/lib/chronos, or the user's state directory). CHRONOS_OFFER_CPU=1
offers the CPU beside a GPU.
"""


_WHICH = "the partition: its id, its name, or the beginning of one; with --json the whole id"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    descriptors.ensure()
    with safe_output.guarded():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    options = parser().parse_args(arguments)
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except CumulusError as error:
        hint = f" ({error.hint})" if error.hint else ""
        if options.json:
            _print_json(json_document(error=render.error_json(error)))
        print(f"chronos_cli: {error}{hint}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:
        # The reader, `head` say, has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def lease_request(options: argparse.Namespace, ledger: Ledger) -> LeaseRequest:
    """What `create` with these options asks of `ledger`."""
    device = lease_args.choose(ledger.devices(), options.device)
    return lease_args.request(
        device, options.memory, options.duration, compute=options.compute, grace=options.grace, user=options.user,
        id=options.id, owner=options.owner, start_within=options.start_within, name=options.name or "",
    )  # fmt: skip


def json_document(**fields: Any) -> dict[str, Any]:
    """What --json prints. `time` is this machine's, so that who asks from another can tell the skew of their clocks."""
    return {"version": render.PROTOCOL, "time": timestamp(SystemClock().now()), **fields}


def _stats(options: argparse.Namespace) -> int:
    rows, used = _measured(_ledger(options))
    if options.json:
        devices = [render.usage_json(*row, used.devices.get(row[0].id)) for row in rows]
        _tell(options, node=_node(), devices=devices, leases=[render.use_json(one) for one in used.leases])
    else:
        render.usage_table(rows, sys.stdout)
        if used.leases:
            print()
            render.use_table(used.leases, sys.stdout)
    return 0


def _metrics(options: argparse.Namespace) -> int:
    from cumulus.chronos import metrics

    safe_output.block(sys.stdout, metrics.exposition(*_measured(_ledger(options))))
    return 0


def _measured(ledger: Ledger) -> tuple[list[tuple[Device, Usage, int]], NodeUse]:
    """The devices with what of them is leased, by how many leases; and what is used."""
    from cumulus.chronos import usage

    leases = ledger.list()
    rows = [(d, ledger.usage(d.index), sum(x.device_id == d.id for x in leases)) for d in _some_devices(ledger)]
    return rows, usage.measure(ledger.database, [device for device, _, _ in rows], leases)


def _devices(options: argparse.Namespace) -> int:
    ledger = _ledger(options)
    if options.refresh:
        ledger.rediscover()
    devices = ledger.devices() if options.json else _some_devices(ledger)
    if options.json:
        conditions = [render.health_json(condition) for condition in ledger.health()]
        _tell(options, node=_node(), devices=[render.device_json(d) for d in devices], conditions=conditions)
    else:
        render.devices_table(devices, sys.stdout)
        for note in render.size_notes(devices):
            print(note)
        for condition in ledger.health():
            if not condition.status:
                print(f"{condition.type}: {condition.message}")
    return 0


def _create(options: argparse.Namespace) -> int:
    ledger = _ledger(options)
    lease = ledger.grant(lease_request(options, ledger))
    if lease.state is not LeaseState.ACTIVE and not options.json:
        raise NoSuchLease(f"lease {lease.id} has ended: {lease.end_reason}", hint="an id is used once; take another")
    if options.json:
        _tell(options, lease=render.lease_json(lease))
    elif options.quiet:
        print(lease.id)
    else:
        name = lease_args.choose(ledger.devices(), lease.device_id).name
        print(f"partition {lease.id}")
        print(f"  {_share(lease)} of device {lease.device} ({name}) for {format_duration(lease.expires_in)}")
        print(f"  run a program in it with: chronos_cli exec {lease.id} -- COMMAND")
    return 0


def _list(options: argparse.Namespace) -> int:
    leases = [x for x in _ledger(options).list(ended=options.all) if options.user in (None, x.user)]
    if options.json:
        _tell(options, leases=[render.lease_json(x) for x in leases])
    elif leases:
        render.leases_table(leases, sys.stdout)
    else:
        print("no leases", file=sys.stderr)
    return 0


def _get(options: argparse.Namespace) -> int:
    ledger = _ledger(options)
    lease = ledger.get(_meant(options, ledger, ended=True))
    if options.json:
        _tell(options, lease=render.lease_json(lease) if lease else None)
    elif lease is None:
        raise _unknown(options.partition)
    else:
        shown = render.lease_json(lease) | {"expiresIn": format_duration(max(0.0, lease.expires_in))}
        for name, value in shown.items():
            text = "" if value is None else to_the_second(value) if name.endswith("At") else value
            print(f"{name}: {text}")
    return 0


def _begin(options: argparse.Namespace) -> int:
    ledger = _ledger(options)
    lease = ledger.begin(_meant(options, ledger))
    if options.json:
        _tell(options, lease=render.lease_json(lease) if lease else None)
    elif lease is None:
        raise _unknown(options.partition)
    else:
        print(f"partition {lease.id} ends in {format_duration(max(0.0, lease.expires_in))}")
    return 0


def _renew(options: argparse.Namespace) -> int:
    ledger = _ledger(options)
    lease = ledger.renew(_meant(options, ledger), options.duration, token=options.token)
    if options.json:
        _tell(options, lease=render.lease_json(lease))
    else:
        print(f"partition {lease.id} ends in {format_duration(lease.expires_in)}")
    return 0


def _release(options: argparse.Namespace) -> int:
    ledger = _ledger(options)
    id = _meant(options, ledger)
    lease = ledger.get(id)
    if lease is not None and lease.state is LeaseState.ACTIVE:
        _attach_marked(ledger, lease)
        lease = ledger.release(id, token=options.token)
    while options.wait and lease is not None and lease.state is LeaseState.ENDING:
        time.sleep(0.02)
        lease = ledger.get(id)
    if options.json:
        _tell(options, lease=render.lease_json(lease) if lease else None)
    elif lease is None:
        raise _unknown(options.partition)
    elif lease.state is LeaseState.ENDED:
        print(f"partition {lease.id} has ended ({lease.end_reason})")
    else:
        print(f"partition {lease.id} is ending: its processes have {format_duration(lease.grace)} to stop")
    return 0


def _exec(options: argparse.Namespace) -> int:
    from cumulus.chronos import enforce

    ledger = _ledger(options)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise UsageError("exec needs a command", hint="chronos_cli exec PARTITION -- COMMAND")
    lease = ledger.get(names.meant(ledger, options.partition))
    if lease is None:
        raise _unknown(options.partition)
    device = lease_args.choose(ledger.devices(), lease.device_id)
    # Before this process belongs to the lease: what the enforcement starts for the node is not to end with it.
    prepared = enforce.environment(lease, device, ledger.home) if lease.state is LeaseState.ACTIVE else {}
    ledger.attach(lease.id, os.getpid(), lease.token)
    ours = variables.of_lease(lease, device) | prepared
    ledger.close()
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


def _prepare(options: argparse.Namespace) -> int:
    ledger = _ledger(options)
    prepared = ledger.prepare(_meant(options, ledger))
    if options.json:
        _tell(options, variables=dict(prepared))
    else:
        for name, value in sorted(prepared.items()):
            print(f"{name}={value}")
    return 0


def _serve(options: argparse.Namespace) -> int:
    from cumulus.chronos.serve import Server

    # What a driver prints, say, must not be taken for an answer.
    sink = os.dup(1)
    os.dup2(2, 1)
    return Server(_ledger(options), sink=sink).run()


def _monitor(options: argparse.Namespace) -> int:
    from cumulus.chronos import service, watchdog
    from cumulus.chronos.monitor import Monitor

    home = _ledger(options).home
    if options.once:
        Monitor(Ledger(home, start_monitor=False)).step()
        return 0
    if options.detach:
        watchdog.ensure_running(home)
        return 0
    return service.run(home, options.idle, take_over=options.take_over)


def _attach_marked(ledger: Ledger, lease: Lease) -> None:
    """Processes that only carry the lease's variable are ended with it too, though nobody attached them."""
    snapshot = Snapshot(home=ledger.home)
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
    served: Ledger | None = options.ledger
    return served or Ledger(Path(options.home) if options.home else None)


def _node() -> dict[str, Any]:
    """What a controller wants to know of the node: its version and its boot."""
    return {
        "hostname": os.uname().nodename,
        "chronosVersion": cumulus.__version__,
        "bootId": boot_id(),
        # Of what not every version takes.
        "takes": ["name"],
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
    tell(json_document(**fields))


def _print_json(said: dict[str, Any]) -> None:
    print(json.dumps(said))


class _Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see: {self.prog} --help)\n")

    def print_help(self, file: Any = None) -> None:
        safe_output.block(file or sys.stdout, self.format_help())


def _value(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse` as an argparse type: its ValueError is the message."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _checked(parse: Callable[[str], Any]) -> Callable[[str], str]:
    """Checks the text at once, and keeps it as written."""

    def check(text: str) -> str:
        _value(parse)(text)
        return text

    return check


def parser() -> argparse.ArgumentParser:
    """Of all commands. In what it parses, `run` is the command; a server puts its own `ledger` and `tell` in."""
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON with a protocol version, for programs")
    common.add_argument("--home", metavar="DIR", help="the ledger's directory (default: CHRONOS_HOME)")
    made = _Parser(
        prog="chronos_cli",
        description="Shares of this machine's GPUs, each a lease with a size and an end.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(ledger=None, tell=_print_json)
    made.add_argument("--version", action="version", version=f"chronos {cumulus.__version__}")
    verbs = made.add_subparsers(metavar="COMMAND", required=True)

    def verb(name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, parents=[common], help=help, description=f"{help[0].upper()}{help[1:]}.")
        added.set_defaults(run=run)
        return added

    verb("stats", _stats, "what of each device is leased and free, and what each lease uses")
    verb("metrics", _metrics, "the same figures for Prometheus")
    verb("devices", _devices, "the devices offered").add_argument(
        "--refresh", action="store_true", help="ask the drivers again"
    )
    _add_create(verb("create", _create, "lease a share of a device for a time"))
    listing = verb("list", _list, "live leases")
    listing.add_argument("--all", action="store_true", help="ended ones of the last day too")
    listing.add_argument("--user", help="only this user's")
    verb("get", _get, "one lease").add_argument("partition", help=_WHICH)
    begin = verb("begin", _begin, "let a lease's time count from now, where it waits for its program's start")
    begin.add_argument("partition", help=_WHICH)
    renew = verb("renew", _renew, "let a lease end later than it would")
    renew.add_argument("partition", help=_WHICH)
    renew.add_argument("duration", type=_value(parse_duration), help="from now: 90s, 1h30m or seconds")
    renew.add_argument("--token", type=int, help="refuse unless this is the lease's fencing token")
    release = verb("release", _release, "end a lease and its processes")
    release.add_argument("partition", help=_WHICH)
    release.add_argument("--wait", action="store_true", help="until its processes are gone")
    release.add_argument("--token", type=int, help="refuse unless this is the lease's fencing token")
    execute = verb("exec", _exec, "run a command inside a lease; it ends with the lease")
    execute.add_argument("partition", help=_WHICH)
    execute.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND [ARGUMENT…]")
    prepare = verb("prepare", _prepare, "what a container needs to be held to a lease")
    prepare.add_argument("partition", help=_WHICH)
    verb("serve", _serve, "answer such commands from standard input, for controllers that come over SSH")
    _add_monitor(verb("monitor", _monitor, "end leases on time, in the foreground (as a service does)"))
    return made


def _add_create(create: argparse.ArgumentParser) -> None:
    create.add_argument("device", help="index or id, as `devices` shows it")
    create.add_argument("memory", type=_checked(parse_share), help="0.5, 50%% or 20Gi")
    create.add_argument("duration", type=_checked(parse_duration), help="90s, 1h30m or seconds")
    create.add_argument("--compute", type=_checked(parse_millis), help="0.25 or 25%% (default: as much as memory)")
    create.add_argument("--user", help="for whom (default: who asks)")
    create.add_argument("--id", help="your own id for it: asking again with it returns the same lease")
    create.add_argument("--name", type=_value(names.check), help="a name for it, to be used in the place of its id")
    create.add_argument("--owner", default="", help="which control plane asks")
    create.add_argument(
        "--start-within",
        type=_value(parse_duration),
        default=0.0,
        metavar="TIME",
        help="let its time count from `begin`, or after so long at the latest",
    )
    create.add_argument(
        "--grace",
        type=_checked(parse_duration),
        default=lease_args.GRACE,
        help="between SIGTERM and SIGKILL when it ends (default 10s)",
    )
    create.add_argument("-q", "--quiet", action="store_true", help="print the partition id alone")


def _add_monitor(monitor: argparse.ArgumentParser) -> None:
    monitor.add_argument("--once", action="store_true", help="do what is due and return")
    monitor.add_argument("--detach", action="store_true", help="start it in the background if none runs")
    monitor.add_argument(
        "--idle", type=_value(parse_duration), help="exit after so long without a lease (default: never)"
    )
    monitor.add_argument("--foreground", action="store_true", help="the default")
    monitor.add_argument("--take-over", action="store_true", help="stop a monitor that runs already, and be it")


if __name__ == "__main__":
    sys.exit(main())
