"""`chronos_cli`: the node's leases for people, and, with --json, for controllers that come over SSH.

Standard library only: a worker needs nothing else. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NoReturn

import cumulus
from cumulus.chronos import lease_args, names, system_ledger, verbs
from cumulus.chronos.contract import wire
from cumulus.chronos.contract.policy import exceptions
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.verbs import OpenLedger
from cumulus.clock import SystemClock
from cumulus.errors import CumulusError, UsageError
from cumulus.lib import descriptors, safe_output
from cumulus.resources.enforcement import Overuse, Sharing, Unleased
from cumulus.resources.quantity import parse_bytes, parse_duration, parse_millis, parse_share

_EXAMPLES = """\
examples:
  chronos_cli stats                                what each device has free, and what each lease uses
  chronos_cli create 0 0.5 1h30m                   half of device 0 for an hour and a half
  chronos_cli create 0 20Gi 3600 --compute 25%     20 GiB and a quarter of its compute for 3600 seconds
  chronos_cli exec PARTITION -- python train.py    run a program inside the lease; it ends with the lease
  chronos_cli park PARTITION --for 8h              move its GPU memory into main memory, and free the share
  chronos_cli unpark PARTITION 1h                  take the share again: its programs go on
  chronos_cli release PARTITION                    give the share back before its time

PARTITION is an id, a name (that of the GPUPartition, or of create --name), or the beginning of one.

Leases are kept in CHRONOS_HOME (default /var/lib/chronos, or the user's state directory). CHRONOS_OFFER_CPU=1
offers the CPU beside a GPU. Where root keeps the machine's ledger for all its users (chronos_cli serve-users), you see
all leases and change your own.
"""


_WHICH = "the partition: its id, its name, or the beginning of one; with --json the whole id"


def main(arguments: Sequence[str] | None = None, *, open_ledger: OpenLedger = Ledger) -> int:
    """Run one command, on the ledger that `open_ledger` opens. Returns the exit code."""
    descriptors.ensure()
    with safe_output.guarded():
        return _main(arguments, open_ledger)


def _main(arguments: Sequence[str] | None, open_ledger: OpenLedger) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    options = parser(open_ledger).parse_args(words)
    try:
        if system_ledger.should_ask(options):
            return system_ledger.run(options, words)
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except CumulusError as error:
        return tell_error(error, as_json=options.json)
    except BrokenPipeError:
        # The reader, `head` say, has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def tell_error(error: CumulusError, *, as_json: bool) -> int:
    """Print it as a command does. Its exit code."""
    hint = f" ({error.hint})" if error.hint else ""
    if as_json:
        _print_json(wire.document(SystemClock(), error=wire.error_json(error)))
    print(f"chronos_cli: {error}{hint}", file=sys.stderr)
    return 2 if isinstance(error, UsageError) else 1


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


def _one_of(kind: type[StrEnum]) -> Callable[[str], StrEnum]:
    def parsed(text: str) -> StrEnum:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(kind)}") from None

    return parsed


def _checked(parse: Callable[[str], Any]) -> Callable[[str], str]:
    """Checks the text at once, and keeps it as written."""

    def check(text: str) -> str:
        _value(parse)(text)
        return text

    return check


def parser(open_ledger: OpenLedger = Ledger) -> argparse.ArgumentParser:
    """Of all commands. In what it parses, `run` is the command; a server puts its own `open_ledger` and `tell` in."""
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON with a protocol version, for programs")
    common.add_argument("--home", metavar="DIR", help="the ledger's directory (default: CHRONOS_HOME)")
    made = _Parser(
        prog="chronos_cli",
        description="Lease shares of this machine's GPUs. Every lease has a size and an end.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(open_ledger=open_ledger, tell=_print_json)
    made.add_argument("--version", action="version", version=f"chronos {cumulus.__version__}")
    commands = made.add_subparsers(metavar="COMMAND", required=True)

    def verb(name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, parents=[common], help=help, description=f"{help[0].upper()}{help[1:]}.")
        added.set_defaults(run=run, verb=name)
        return added

    verb("stats", verbs.stats, "show what of each device is leased and free, and what each lease uses")
    verb("metrics", verbs.metrics, "print the same figures for Prometheus")
    verb("devices", verbs.devices, "show the devices").add_argument(
        "--refresh", action="store_true", help="ask the drivers again"
    )
    _add_create(verb("create", verbs.create, "lease a share of a device for a time"))
    listing = verb("list", verbs.list_, "show live leases")
    listing.add_argument("--all", action="store_true", help="also those that ended in the last day")
    listing.add_argument("--user", help="only this user's")
    verb("get", verbs.get, "show one lease").add_argument("partition", help=_WHICH)
    begin = verb("begin", verbs.begin, "start the clock of a lease that waits for its program to start")
    begin.add_argument("partition", help=_WHICH)
    renew = verb("renew", verbs.renew, "extend a lease")
    renew.add_argument("partition", help=_WHICH)
    renew.add_argument("duration", type=_value(parse_duration), help="from now: 90s, 1h30m or seconds")
    renew.add_argument("--token", type=int, help="refuse unless this is the lease's fencing token")
    park = verb("park", verbs.park, "move what a lease's programs hold of the GPU into main memory, and free the share")
    park.add_argument("partition", help=_WHICH)
    park.add_argument(
        "--for",
        dest="park_for",
        type=_value(parse_duration),
        default=86400.0,
        metavar="TIME",
        help="end its programs if they still wait by then (default 1d)",
    )
    park.add_argument(
        "--freeze", action="store_true", help="stop its programs meanwhile; else they go on, and CUDA calls wait"
    )
    park.add_argument("--token", type=int, help="refuse unless this is the lease's fencing token")
    unpark = verb("unpark", verbs.unpark, "take the share of a parked lease again, and let its programs go on")
    unpark.add_argument("partition", help=_WHICH)
    unpark.add_argument("duration", type=_value(parse_duration), help="from then on: 90s, 1h30m or seconds")
    unpark.add_argument("--token", type=int, help="refuse unless this is the lease's fencing token")
    _add_park_test(
        verb("park-test", verbs.park_test, "park a small program of each framework: what comes back is parkable")
    )
    release = verb("release", verbs.release, "end a lease and its processes")
    release.add_argument("partition", help=_WHICH)
    release.add_argument("--wait", action="store_true", help="wait until its processes are gone")
    release.add_argument("--token", type=int, help="refuse unless this is the lease's fencing token")
    execute = verb("exec", verbs.exec_, "run a command inside a lease; it ends with the lease")
    execute.add_argument("partition", help=_WHICH)
    execute.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND [ARGUMENT…]")
    prepare = verb(
        "prepare", verbs.prepare, "set up what enforces a lease in a container, and print the variables for it"
    )
    prepare.add_argument("partition", help=_WHICH)
    _add_policy(verb("policy", verbs.policy, "show or set what is done about overuse and processes without a lease"))
    checkpoints = verb(
        "checkpoints", verbs.checkpoints, "copy, fetch and read the checkpoints of containers, for controllers"
    )
    checkpoints.add_argument("program", choices=sorted(verbs.CHECKPOINT_PROGRAMS), help="uploader: beyond the node")
    checkpoints.add_argument("words", nargs=argparse.REMAINDER, help="what it is told")
    channel = verb("channel", verbs.channel, "run programs beside a job's container, for controllers")
    channel.add_argument("--engine", metavar="SOCKET", default="", help="of Docker (default: the usual one)")
    verb("serve", verbs.serve, "answer these commands from standard input, for controllers that come over SSH")
    users = verb("serve-users", verbs.serve_users, "as root: answer these commands to every user of the machine")
    users.add_argument(
        "--socket", metavar="PATH", default=system_ledger.SOCKET, help=f"where (default {system_ledger.SOCKET})"
    )
    users.add_argument(
        "--may-create", metavar="GROUP", default="", help="the Unix group whose members may make leases (default: none)"
    )
    _add_monitor(verb("monitor", verbs.monitor, "end leases on time, in the foreground (as a service does)"))
    return made


def _add_create(create: argparse.ArgumentParser) -> None:
    create.add_argument("device", help="index or id, as `devices` shows it")
    create.add_argument("memory", type=_checked(parse_share), help="0.5, 50%% or 20Gi")
    create.add_argument("duration", type=_checked(parse_duration), help="90s, 1h30m or seconds")
    create.add_argument("--compute", type=_checked(parse_millis), help="0.25 or 25%% (default: as much as memory)")
    create.add_argument("--user", help="who it is for (default: you)")
    create.add_argument("--id", help="your own id: asking again with it returns the same lease")
    create.add_argument("--name", type=_value(names.check), help="a name, which may be used instead of the id")
    create.add_argument("--owner", default="", help="the control plane that asks")
    create.add_argument(
        "--start-within",
        type=_value(parse_duration),
        default=0.0,
        metavar="TIME",
        help="count its time from `begin`, or from this long after the grant at the latest",
    )
    create.add_argument(
        "--grace",
        type=_checked(parse_duration),
        default=lease_args.GRACE,
        help="time between SIGTERM and SIGKILL when it ends (default 10s)",
    )
    create.add_argument(
        "--overuse",
        type=_one_of(Overuse),
        choices=list(Overuse),
        help="what is done where its processes hold more: it is only ever made stricter than the node's rule",
    )
    create.add_argument(
        "--sharing",
        type=_one_of(Sharing),
        choices=list(Sharing),
        default=Sharing.CONCURRENT,
        help="Concurrent: programs of several leases run at once, through MPS (default); Parkable: without MPS, by "
        "turns, and the lease can be parked",
    )
    create.add_argument("-q", "--quiet", action="store_true", help="print only the partition id")


def _add_policy(added: argparse.ArgumentParser) -> None:
    added.add_argument(
        "--overuse",
        type=_one_of(Overuse),
        choices=list(Overuse),
        help="End: a lease whose processes hold more ends at once; Report: only leases of a part of a device, if they "
        "ask for nothing else (default: End for a part of a device, Report for a whole one)",
    )
    added.add_argument(
        "--unleased",
        type=_one_of(Unleased),
        choices=list(Unleased),
        help="processes that hold a GPU without any lease: Report tells who they are (the default), End ends those of "
        "people (uid 1000 and above)",
    )
    added.add_argument(
        "--except",
        dest="exceptions",
        type=_value(lambda text: exceptions(*filter(None, text.split(",")))),
        metavar="WHO,…",
        help="who is never ended for want of a lease: user:NAME, user:UID or program:NAME; '' for nobody",
    )
    added.add_argument(
        "--parking-memory",
        type=_value(parse_bytes),
        metavar="SIZE",
        help="main memory for parked leases, 64Gi say; 0: none is parked (default: half of the main memory)",
    )


def _add_park_test(test: argparse.ArgumentParser) -> None:
    test.add_argument("device", nargs="?", default="0", help="index or id, as `devices` shows it (default 0)")
    test.add_argument(
        "--framework",
        action="append",
        choices=("cuda", "torch", "cupy", "jax", "tensorflow"),
        help="this one alone; may be given several times (default: all that are installed)",
    )
    test.add_argument(
        "--python",
        default=sys.executable,
        metavar="PATH",
        help="the Python that has the frameworks (default: this one)",
    )
    test.add_argument("--list", action="store_true", help="test nothing; show what was tested")


def _add_monitor(monitor: argparse.ArgumentParser) -> None:
    monitor.add_argument("--once", action="store_true", help="do what is due and return")
    monitor.add_argument("--detach", action="store_true", help="start it in the background if none runs")
    monitor.add_argument(
        "--idle", type=_value(parse_duration), help="exit after this long without a lease (default: never)"
    )
    monitor.add_argument("--foreground", action="store_true", help="the default")
    monitor.add_argument(
        "--take-over", action="store_true", help="stop a monitor that runs already, and take its place"
    )


if __name__ == "__main__":
    sys.exit(main())
