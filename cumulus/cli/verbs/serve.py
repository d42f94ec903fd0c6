"""`cumulus serve`: puts the whole control plane together on embedded defaults, and runs it.

SQLite in CUMULUS_HOME/store, the process backend in CUMULUS_HOME/process, this machine's ledger, one manager.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from cumulus import __version__, log, paths
from cumulus.backends.base import Backend
from cumulus.backends.process.backend import ProcessBackend
from cumulus.chronos.lease import NodeFacts
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.monitor import ensure_running
from cumulus.cli import config, context, logfile
from cumulus.cli.context import DaemonLock
from cumulus.cli.keeper import Keeper
from cumulus.errors import ChronosError, LedgerUnavailable, NotFound, StoreError, StoreUnavailable, UsageError
from cumulus.lib import state_id
from cumulus.lib.processes import boot_id
from cumulus.lib.systemd import notify
from cumulus.machinery.manager import WORKERS, Manager, Role
from cumulus.nodes.agent import Connect, NodeAgent
from cumulus.resources.key import Key
from cumulus.resources.lease import LEADER
from cumulus.resources.node import GPUNode, SshAddress
from cumulus.secrets import SecretStore
from cumulus.store.base import Store
from cumulus.store.client import Client
from cumulus.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from cumulus.backends.swarm.backend import SwarmBackend

_log = structlog.get_logger("cumulus.serve")
_NAME = "node-name"


def serve(
    home: Annotated[
        str, typer.Option(metavar="DIR", show_default=False, help="The state directory, instead of $CUMULUS_HOME.")
    ] = "",
    config_file: Annotated[
        str,
        typer.Option(
            "--config",
            metavar="FILE",
            show_default=False,
            help="Configuration; else $ORCHESTRATOR_CONFIG, else ./config.yaml where that says apiVersion: "
            "cumulus.dev/v1alpha1.",
        ),
    ] = "",
    workers: Annotated[
        str, typer.Option(metavar="N", show_default=False, help="Threads for each of the job and partition loops.")
    ] = "",
    log_format: Annotated[
        str, typer.Option(metavar="auto|json|console", help="auto: readable on a terminal, JSON otherwise.")
    ] = "auto",
    log_level: Annotated[
        str, typer.Option(metavar="debug|info|warning|error", help="The least that is logged.")
    ] = "info",
    log_file: Annotated[
        str, typer.Option(metavar="FILE", show_default=False, help="Where the log goes instead; - is stderr.")
    ] = "",
) -> int:
    """Run the daemon that makes objects come true, in the foreground.

    It needs nothing else: its store is a file in the state directory, jobs are processes of this machine. Several
    may run on one state directory: one leads, the others stand by. SIGTERM ends it; jobs go on without it.

    Its log goes to stderr. Started with & at a terminal it would write into what you type next, so there it goes to
    serve.log in the state directory.

    \b
    Examples:
      cumulus serve
      cumulus serve --home /var/lib/cumulus --log-format json
      cumulus serve --config config.yaml --workers 8
    """  # fmt: skip
    if home:
        os.environ["CUMULUS_HOME"] = home
    log.configure(format=log_format, level=log_level, stream=logfile.chosen(log_file, paths.home()))
    settings = config.load(config.find(config_file))
    threads = _workers(workers) or settings.workers
    if settings.offer_cpu:
        os.environ["CHRONOS_OFFER_CPU"] = "1"
    return run(paths.home(), settings, threads)


def _workers(text: str) -> int:
    if text and not (text.isdigit() and 1 <= int(text) <= config.MOST_WORKERS):
        raise UsageError(f"--workers takes a number from 1 to {config.MOST_WORKERS}, not {text!r}")
    return int(text or 0)


def run(home: Path, settings: config.Config, workers: int) -> int:
    """Serve until SIGTERM or SIGINT; 0 then. Raises StoreUnavailable where the store can't be used."""
    stop = threading.Event()
    _on_signals(stop)
    store, lock = _opened(home)
    commands = Keeper(home)
    try:
        ledger = Ledger()
        name = settings.node_name or kept_name(home)
        backend = ProcessBackend(
            paths.process_dir(home),
            name,
            SecretStore(paths.secrets_dir(home)),
            chronos_home=ledger.home,
            retention=settings.logs,
            env=settings.job_env,
        )
        agent = NodeAgent(
            name, ledger, labels=settings.node_labels,
            facts=lambda: NodeFacts(socket.gethostname(), boot_id(), __version__, conditions=ledger.health()),
        )  # fmt: skip
        backends: list[Backend] = [backend]
        swarm = _swarm(home, lambda: manager.agents, store, settings)
        if swarm is not None:
            backends.append(swarm)
        _log.info("starting", home=str(home), chronos_home=str(ledger.home), node=name, pid=os.getpid())
        _start_monitor(ledger)
        threading.Thread(target=_measure, args=(ledger,), name="measure-devices", daemon=True).start()
        manager = Manager(
            store, backends, [agent], connect=_connector(home), ready=_report(home, store, commands),
            troubled=_troubled, workers=_threads(workers), cluster=None if swarm is None else swarm.machines,
            cluster_user=os.environ.get("SWARM_SSH_USER") or "root",
        )  # fmt: skip
        manager.run(stop)
        for opened in backends:
            opened.close()
        _log.info("stopped")
        return 0
    finally:
        commands.close()
        store.close()
        lock.close()


def _swarm(
    home: Path, agents: Callable[[], Mapping[str, NodeAgent]], store: Store, settings: config.Config
) -> SwarmBackend | None:
    """Loaded where the environment names a Swarm, so that a daemon without one starts faster."""
    if not (os.environ.get("SWARM_MANAGER") or os.environ.get("DOCKER_HOST") or os.environ.get("DOCKER_CONTEXT")):
        return None
    from cumulus.cli import swarm, workers

    shells: dict[str, tuple[SshAddress | None, workers.LinkShell | None]] = {}

    def shell(name: str) -> workers.LinkShell | None:
        try:
            node = Client(store).get(GPUNode, "", name)
        except NotFound:
            return None
        known = shells.get(name)
        if known is None or known[0] != node.spec.ssh:
            known = shells[name] = node.spec.ssh, workers.shell(home, node)
        return known[1]

    made = swarm.backend(home, store, agents, shell, settings.logs)
    if made is not None:
        _log.info("using a Docker Swarm", managers=" ".join(made.engine.urls))
    return made


def _connector(home: Path) -> Connect:
    """SSH is loaded when there is a node to reach by it, so that a daemon without one starts faster."""

    def connect(node: GPUNode) -> NodeAgent:
        from cumulus.cli.workers import connector

        return connector(home)(node)

    return connect


def _threads(workers: int) -> dict[str, int] | None:
    return {**WORKERS, "job": workers, "partition": workers} if workers else None


def _opened(home: Path) -> tuple[SqliteStore, DaemonLock]:
    try:
        # Another daemon of this state directory may be at work on a store that is not there any more.
        context.refuse_unread(home)
        lock = DaemonLock(home)
        store = SqliteStore(paths.store_dir(home))
        store.revision()
        lock.serves(context.store_file(home))
        return store, lock
    except OSError as error:
        raise StoreUnavailable(
            f"the state directory {home} cannot be used: {error.strerror}",
            hint="set CUMULUS_HOME to a directory that you may write",
        ) from None


def _on_signals(stop: threading.Event) -> None:
    def on_stop(number: int, _frame: object) -> None:
        if stop.is_set():
            # Asked a second time: whoever asks does not want to wait for the drain.
            os._exit(128 + number)
        notify(STOPPING="1", STATUS="draining: jobs go on, the reconciles that run are finished")
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _start_monitor(ledger: Ledger) -> None:
    """Its absence keeps nothing from starting: the node says that it is not ready, and a grant tries again."""
    try:
        ledger.list()  # makes the ledger where there is none
        ensure_running(ledger.home)
    except (LedgerUnavailable, OSError) as error:
        _log.warning("the monitor of leases does not start", error=str(error))


def _measure(ledger: Ledger) -> None:
    """A device may have another size than when the last daemon ran. Not waited for: drivers take their time."""
    try:
        if ledger.known():
            ledger.measure()
    except ChronosError as error:
        _log.warning("the devices' sizes are not asked for", error=str(error))


def _report(home: Path, store: Store, commands: Keeper) -> Callable[[Role], None]:
    def ready(role: Role) -> None:
        leader = holder(store)
        if role is Role.LEADING:
            _log.info("leading: objects are made to come true", home=str(home))
            notify(READY="1", STATUS=f"leads on {home}")
            commands.start()
        else:
            if leader:
                _log.info("standing by: takes over when the leader is gone", leader=leader)
            notify(READY="1", STATUS=f"stands by on {home} for {leader}")

    return ready


def _troubled(troubles: Sequence[str]) -> None:
    """The log has said it. A service manager shows it as the daemon's status."""
    said = f"not ready: {'; '.join(troubles)}" if troubles else "makes progress again"
    notify(STATUS=said)


def holder(store: Store) -> str:
    """Who leads, or led last; "" where nobody does."""
    try:
        return str(store.get(Key("Lease", "", LEADER))["spec"].get("holderIdentity", ""))
    except StoreError:
        return ""


def kept_name(home: Path) -> str:
    """The name of this machine's node: the host's when a daemon first ran on the state directory, so that a host that
    is renamed is no second node. A copy of the directory, on another machine say, has the name of its host."""
    here = state_id.find(str(home))
    name = here.recall(_NAME) or node_name()
    here.note(_NAME, name)
    return name


def node_name() -> str:
    """The host's name as an object's name: lower case, what does not belong there replaced by '-'."""
    name = re.sub(r"[^a-z0-9.-]+", "-", socket.gethostname().lower()).strip("-.")
    return re.sub(r"-*\.[-.]*", ".", name)[:253] or "node"
