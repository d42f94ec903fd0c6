"""Puts the whole control plane together on embedded defaults, and runs it.

SQLite in CUMULUS_HOME/store, the process backend in CUMULUS_HOME/process, this machine's ledger, one manager.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from cumulus import __version__, environment, job_limit, paths, stores
from cumulus.backends.base import Backend
from cumulus.backends.process.backend import ProcessBackend
from cumulus.backends.programs import ProgramBackend
from cumulus.blob.base import BlobStore
from cumulus.blob.opened import open_blobs
from cumulus.chronos.contract import NodeFacts, variables
from cumulus.chronos.contract.node import checkpoint_places
from cumulus.chronos.local import Ledger, ensure_running, usage_of
from cumulus.clock import SystemClock
from cumulus.daemon_lock import DaemonLock, refuse_unread, store_file
from cumulus.errors import ChronosError, LedgerUnavailable, StoreUnavailable
from cumulus.history.follower import HistoryFollower
from cumulus.history.recorder import HistoryRecorder
from cumulus.lib import addresses, state_id
from cumulus.lib.host import object_name
from cumulus.lib.processes import boot_id
from cumulus.lib.systemd import notify
from cumulus.machinery.manager import ManagerRole
from cumulus.nodes.agent import Connect, NodeAgent
from cumulus.resources.node import GPUNode
from cumulus.scheduling.policy import policies_of
from cumulus.secrets import JobSecrets
from cumulus.server.api_server import ApiServer
from cumulus.server.checkpoint_removals import CheckpointRemovals
from cumulus.server.child_process import ChildProcess
from cumulus.server.command_server_process import command_server_process
from cumulus.server.control_plane import ControlPlane
from cumulus.server.grpc.launch import Launch
from cumulus.server.grpc_process import grpc_process, log_level
from cumulus.server.metrics.daemon import DaemonMetrics
from cumulus.server.settings import DaemonSettings
from cumulus.server.sources import SourceThreads
from cumulus.service.secret_migration import check_moved
from cumulus.store.base import Store
from cumulus.store.leadership import holder_identity

if TYPE_CHECKING:
    from cumulus.backends.swarm.backend import SwarmBackend
    from cumulus.nodes.settings import SshSettings

_log = structlog.get_logger("cumulus.serve")
OPEN_FILES = 16384
_NAME = "node-name"


def run(settings: DaemonSettings) -> int:
    """Serve until SIGTERM or SIGINT; 0 then. Raises StoreUnavailable where the store can't be used."""
    if settings.chronos.offerCPU:
        # The ledger reads it, also in the monitor and the supervisors, which are processes of their own.
        os.environ[variables.OFFER_CPU] = "1"
    if settings.api.tlsCert or settings.api.clientCA:
        from cumulus.server.http.tls import check_files

        check_files(settings.api)
    _raise_open_files()
    stop = threading.Event()
    _stop_on_signals(stop)
    home = settings.home
    if settings.system:
        _make_system_directories(home)
    elif os.path.exists(paths.SYSTEM_SOCKET):
        _log.warning(
            "a system daemon serves this machine, and this one does not know its leases",
            socket=paths.SYSTEM_SOCKET,
        )
    store, lock = _open(home)
    command_server = _command_server(settings)
    metrics = DaemonMetrics(store, SystemClock())
    blobs = open_blobs(home, settings.blobs.directory, settings.blobs.limits, settings.bucket)
    api_server = ApiServer(
        home,
        store,
        settings.api,
        mounts=settings.containers.mounts,
        metrics=metrics,
        system=settings.system,
        grpc=_grpc(settings, metrics),
        grpc_host=addresses.split(settings.grpc_listen)[0] if settings.grpc_listen else "",
        blobs=blobs,
    )
    try:
        ledger = Ledger()
        name = settings.node.name or node_name(home)
        agent = NodeAgent(
            name, ledger, labels=settings.node.labels,
            facts=lambda: _facts(ledger),
            usage=lambda: usage_of(ledger), set_policy=ledger.set_policy,
        )  # fmt: skip
        process = _process_backend(settings, name, ledger, blobs)
        swarm = _swarm_backend(settings, store, lambda: manager.agents, blobs, process, name)
        backends: list[Backend] = [process]
        if swarm is not None:
            backends = [ProgramBackend(process, name, swarm), swarm]
        _log.info("starting", home=str(home), chronos_home=str(ledger.home), node=name, pid=os.getpid())
        _start_monitor(ledger)
        threading.Thread(target=_measure, args=(ledger,), name="measure-devices", daemon=True).start()
        sources = SourceThreads(settings, store, blobs)
        history = _history(settings, store)
        manager = ControlPlane(
            store, backends, [agent], connect=_connector(home, settings.ssh),
            ready=_ready(settings, store, command_server, api_server),
            on_problems=_show_problems, workers=_threads(settings.workers),
            cluster=None if swarm is None else swarm.machines, cluster_user=settings.swarm.ssh_user,
            metrics=metrics, policies=policies_of(settings.max_jobs),
            blobs=blobs, blob_retention=settings.blobs.retention, sources=sources.room,
            checkpoint_bucket="" if settings.bucket is None else settings.bucket.name, removals=_removals(settings),
            shared_directories=settings.jobs.shared, history=history,
        )  # fmt: skip
        sources.start()
        try:
            manager.run(stop)
        finally:
            sources.close()
            history.close()
        for opened in backends:
            opened.close()
        _log.info("stopped")
        return 0
    finally:
        api_server.close()
        if command_server is not None:
            command_server.close()
        store.close()
        lock.close()


def _command_server(settings: DaemonSettings) -> ChildProcess | None:
    if environment.NO_COMMAND_SERVER in settings.environment:
        return None
    return command_server_process(settings.home, settings.environment)


def _grpc(settings: DaemonSettings, metrics: DaemonMetrics) -> ChildProcess | None:
    if not settings.grpc_listen:
        return None
    launch = Launch(
        str(settings.home), settings.grpc_listen, settings.api.names, settings.api.tlsCert, settings.api.tlsKey,
        settings.system, settings.containers.mounts, settings.blobs.directory, settings.blobs.limits, settings.bucket,
        log_level(), settings.jobs.env.get("PATH", ""),
    )  # fmt: skip
    return grpc_process(launch, settings.environment, metrics.grpc)


def _make_system_directories(home: Path) -> None:
    """Every user passes through the state directory to the files of their own jobs, and sees nothing else there."""
    try:
        for directory, mode in ((home, 0o711), (Path(paths.SYSTEM_SOCKET).parent, 0o755)):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(mode)
    except OSError as error:
        raise StoreUnavailable(
            f"{error.filename} cannot be used: {error.strerror}",
            hint="the system daemon needs a writable disk",
        ) from None


def _facts(ledger: Ledger) -> NodeFacts:
    seen = ledger.watched()
    return NodeFacts(
        socket.gethostname(), boot_id(), __version__, conditions=ledger.health(), figures=seen.figures,
        unleased=seen.unleased, parking=ledger.parking(), checkpoint_places=checkpoint_places(),
    )  # fmt: skip


def _open(home: Path) -> tuple[Store, DaemonLock]:
    try:
        # Another daemon of this state directory may be at work on a store that is not there any more.
        refuse_unread(home)
        check_moved(home)
        lock = DaemonLock(home)
        store = stores.of_home(home, create=True)
        store.revision()
        lock.serves(store_file(home))
        return store, lock
    except OSError as error:
        raise StoreUnavailable(
            f"the state directory {home} cannot be used: {error.strerror}",
            hint="set CUMULUS_HOME to a directory that you may write",
        ) from None


def _history(settings: DaemonSettings, store: Store) -> HistoryFollower:
    kept = settings.history
    recorder = HistoryRecorder(
        paths.history_file(settings.home), SystemClock(), retention=kept.retention, every=kept.every
    )  # fmt: skip
    return HistoryFollower(store, recorder)


def _removals(settings: DaemonSettings) -> CheckpointRemovals | None:
    if settings.bucket is None:
        return None
    return CheckpointRemovals(paths.checkpoint_removals_dir(settings.home), settings.bucket)


def _process_backend(settings: DaemonSettings, node: str, ledger: Ledger, blobs: BlobStore) -> ProcessBackend:
    return ProcessBackend(
        paths.process_dir(settings.home),
        node,
        JobSecrets(paths.job_secrets_dir(settings.home)),
        chronos_home=ledger.home,
        retention=settings.logs.retention,
        job_env=settings.jobs.env,
        environment={**settings.environment, **({variables.OFFER_CPU: "1"} if settings.chronos.offerCPU else {})},
        blobs=blobs,
    )


def _swarm_backend(
    settings: DaemonSettings, store: Store, agents: Callable[[], Mapping[str, NodeAgent]], blobs: BlobStore,
    process: ProcessBackend, node: str,
) -> SwarmBackend | None:  # fmt: skip
    """Loaded where the settings name a Swarm, so that a daemon without one starts faster. `process`: what runs on this
    machine, `node`."""
    if not settings.swarm.is_named:
        return None
    from cumulus.server import swarm

    made = swarm.backend(settings, store, agents, blobs, process, node)
    if made is not None:
        _log.info("using a Docker Swarm", managers=" ".join(made.engine.urls))
    return made


def _connector(home: Path, ssh: SshSettings) -> Connect:
    """SSH is loaded when there is a node to reach by it, so that a daemon without one starts faster."""

    def connect(node: GPUNode) -> NodeAgent:
        from cumulus.nodes.workers import connector

        return connector(home, ssh)(node)

    return connect


def _threads(workers: int | None) -> dict[str, int] | None:
    return {"job": workers, "partition": workers} if workers else None


def _stop_on_signals(stop: threading.Event) -> None:
    def on_stop(number: int, _frame: object) -> None:
        if stop.is_set():
            # Asked a second time: whoever asks does not want to wait for the drain.
            os._exit(128 + number)
        notify(STOPPING="1", STATUS="draining: jobs go on, the reconciles that run are finished")
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _raise_open_files() -> None:
    """Each connection to the API is one. Jobs get limits of their own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _start_monitor(ledger: Ledger) -> None:
    """Its absence keeps nothing from starting: the node says that it is not ready, and a grant tries again."""
    try:
        ledger.open()
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


def _ready(
    settings: DaemonSettings, store: Store, command_server: ChildProcess | None, api_server: ApiServer
) -> Callable[[ManagerRole], None]:
    home = settings.home

    def ready(role: ManagerRole) -> None:
        # Beside the controllers: they do not wait until it is loaded.
        api_server.start()
        leader = holder_identity(store)
        if role is ManagerRole.LEADING:
            _log.info("leading: the controllers run", home=str(home))
            try:
                job_limit.note(home, settings.max_jobs)
            except OSError as error:
                _log.warning("`why` is not told how many jobs may run", error=str(error))
            notify(READY="1", STATUS=f"leads on {home}")
            if command_server is not None:
                command_server.start()
        else:
            if leader:
                _log.info("standing by: takes over when the leader stops", leader=leader)
            notify(READY="1", STATUS=f"stands by on {home} for {leader}")

    return ready


def _show_problems(problems: Sequence[str]) -> None:
    """The log has said it. A service manager shows it as the daemon's status."""
    said = f"not ready: {'; '.join(problems)}" if problems else "makes progress again"
    notify(STATUS=said)


def node_name(home: Path) -> str:
    """The name of this machine's node: the host's when a daemon first ran on the state directory, so that a host that
    is renamed is no second node. A copy of the directory, on another machine say, has the name of its host."""
    here = state_id.find(str(home))
    name = here.recall(_NAME) or object_name(socket.gethostname())
    here.note(_NAME, name)
    return name
