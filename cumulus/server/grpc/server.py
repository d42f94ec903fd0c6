"""The server from its start to its end: the socket first, then TLS."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import grpc
import structlog

from cumulus import environment, paths, stores
from cumulus.blob.opened import open_blobs
from cumulus.daemon_lock import refuse_unread, store_file
from cumulus.errors import CumulusError, StoreUnavailable
from cumulus.infrastructure import LocalInfrastructure
from cumulus.lib import addresses, unix_socket
from cumulus.server.api import Api
from cumulus.server.grpc.attendance import AttendanceBook
from cumulus.server.grpc.credentials import by_credentials
from cumulus.server.grpc.launch import Launch
from cumulus.server.grpc.metering import Metering
from cumulus.server.grpc.service import make_server
from cumulus.server.grpc.tls import ServerCertificate
from cumulus.server.host_names import called
from cumulus.server.http.certificates import trusted_by_files
from cumulus.server.watches import WatchBridge
from cumulus.service.addresses import NO_GRPC, GrpcAddress, grpc_address
from cumulus.service.service import Service

_log = structlog.get_logger("cumulus.grpc")
RETRY_SECONDS = 2.0
SWEEP_SECONDS = 3600.0
STREAMS = 1024
"""Of logs, blobs, results and sessions at once; four times what one user may have open."""
DRAIN_SECONDS = 2.0
"""How long calls that are being answered have when the server ends."""


async def serve(launch: Launch, ended: asyncio.Event) -> None:
    """Answer until `ended`. Raises OSError, CumulusError where it can't."""
    home = launch.directory
    # The daemon's, and no new one where somebody moved it away.
    refuse_unread(home)
    if not store_file(home).exists():
        raise StoreUnavailable(f"there is no store in {paths.store_dir(home)}")
    store = stores.open_store(paths.store_dir(home))
    store.revision()
    blobs = open_blobs(home, launch.blobs, launch.blob_limits, launch.bucket)
    service = Service.of_daemon(
        store, home, system=launch.system, mounts=launch.mounts,
        infrastructure=LocalInfrastructure(home, blobs, path=launch.path),
    )  # fmt: skip
    bridge = WatchBridge(store)
    api = Api(service, bridge, streams=STREAMS)
    attendance = AttendanceBook(api)
    metering = Metering()
    servers = _Servers(launch, api, attendance, metering)
    # First, so that a ticket that is asked for as soon as the socket answers tells where.
    tasks = [
        asyncio.create_task(each) for each in (attendance.run(), metering.run(), _sweep(api), servers.open_encrypted())
    ]
    for task in tasks:
        task.add_done_callback(partial(_end_with, ended))
    try:
        await servers.open_sockets()
        await ended.wait()
    finally:
        for task in tasks:
            task.cancel()
        # What streams ends first, so that there is little to wait for.
        await asyncio.to_thread(bridge.close)
        await asyncio.to_thread(api.streams.close)
        await servers.close()
        api.close()
        store.close()


def _end_with(ended: asyncio.Event, task: asyncio.Task[None]) -> None:
    """A defect in what runs beside the calls ends the server, which is started again."""
    if not task.cancelled() and (failed := task.exception()) is not None:
        _log.error("the gRPC server ends: a part of it failed", exc_info=failed)
        ended.set()


async def _sweep(api: Api) -> None:
    while True:
        await api.call(api.service.submissions.sweep)
        await asyncio.sleep(SWEEP_SECONDS)


class _Servers:
    """One for the sockets and one for TLS, which may come later: a gRPC server takes no port once it runs."""

    def __init__(self, launch: Launch, api: Api, attendance: AttendanceBook, metering: Metering) -> None:
        self._launch = launch
        self._home = launch.directory
        self._make: Callable[[], grpc.aio.Server] = lambda: make_server(api, attendance, by_credentials(api), metering)
        self._running: list[grpc.aio.Server] = []
        self._sockets = {str(paths.grpc_socket(self._home)): 0o600}
        if launch.system:
            # Nothing is answered without a ticket or a token.
            self._sockets[paths.SYSTEM_GRPC_SOCKET] = 0o666

    async def open_sockets(self) -> None:
        server = self._make()
        with contextlib.ExitStack() as held:
            for path, mode in self._sockets.items():
                _listen(server, path, mode, held)
            await server.start()
        self._running.append(server)
        if grpc_address.read(self._home) in (None, NO_GRPC):
            self._tell("", "")
        _log.info("gRPC is served", sockets=" ".join(self._sockets))

    async def open_encrypted(self) -> None:
        """As soon as there is a certificate. Where the port is taken the sockets are all there is."""
        told = ""
        while True:
            try:
                await self._open_encrypted()
                return
            except (OSError, ValueError, CumulusError, RuntimeError) as error:
                if _is_of_address(error):
                    self._tell("", "")
                    _log.warning(f"gRPC is not served at {self._launch.listen}: {_said(error)}", fix=_FIX)
                    return
                if str(error) != told and not isinstance(error, FileNotFoundError):
                    told = str(error)
                    _log.error("gRPC is not served over TLS", error=told)
            await asyncio.sleep(RETRY_SECONDS)

    async def _open_encrypted(self) -> None:
        launch = self._launch
        host, port = addresses.split(launch.listen)
        own = paths.api_dir(self._home) / "server.pem"
        chain, key = (Path(launch.tls_cert), Path(launch.tls_key)) if launch.tls_cert else (own, own)
        credentials = ServerCertificate(chain, key).credentials()
        trusted = trusted_by_files(paths.api_dir(self._home), launch.tls_cert)
        _check_free(host, port)
        server = self._make()
        bound = server.add_secure_port(addresses.join(host, port), credentials)
        await server.start()
        self._running.append(server)
        address = addresses.join(called(host, launch.names), bound)
        self._tell(address, trusted)
        _log.info("gRPC is served", address=address)

    def _tell(self, address: str, ca: str) -> None:
        grpc_address.write(self._home, GrpcAddress(list(self._sockets)[-1], address, ca))

    async def close(self) -> None:
        await asyncio.gather(*(server.stop(DRAIN_SECONDS) for server in self._running))
        # A socket that is left behind means that its server died.
        for path in self._sockets:
            Path(path).unlink(missing_ok=True)


_FIX = f"set {environment.ORCHESTRATOR_PORT} to another port (0: any that is free), or give --grpc-listen HOST:PORT"


def _is_of_address(error: Exception) -> bool:
    of_it = (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL)
    return isinstance(error, RuntimeError | socket.gaierror) or (
        isinstance(error, OSError) and error.errno in of_it and not error.filename
    )


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "another program has the port; the Unix socket alone answers"
    return f"{getattr(error, 'strerror', None) or error}; the Unix socket alone answers"


def _check_free(host: str, port: int) -> None:
    """gRPC itself does not tell why it can't listen. Raises OSError."""
    family, *_, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    socket.create_server(found, family=family).close()


def _listen(server: grpc.aio.Server, path: str, mode: int, held: contextlib.ExitStack) -> None:
    """Also where the path is longer than the kernel takes. What a server that died left there goes."""
    address = held.enter_context(unix_socket.short(path))
    with _umask(0o777 & ~mode):
        server.add_insecure_port(f"unix:{address}")


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    """gRPC makes the file. Nothing else makes one here yet."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
