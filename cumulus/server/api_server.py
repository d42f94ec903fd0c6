"""Opens the HTTP API of a state directory: of the daemons that run on it, one at a time.

Which of them, a lock on a file says; it need not be the one that leads, since the store lets each of them read and
write. The others wait, and the next takes over as soon as that one ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from cumulus import paths
from cumulus.errors import CumulusError
from cumulus.lib import unix_socket
from cumulus.server import host_names
from cumulus.server.child_process import ChildProcess
from cumulus.server.settings import ApiSettings
from cumulus.store.base import Store

if TYPE_CHECKING:
    from cumulus.blob.base import BlobStore
    from cumulus.server.api import Api
    from cumulus.server.encrypted_api import EncryptedApi
    from cumulus.server.http.listener import Listener
    from cumulus.server.metrics.daemon import DaemonMetrics

_log = structlog.get_logger("cumulus.api")

RETRY_SECONDS = 0.5
"""How often a daemon that does not listen looks whether it may."""
ADDRESS_RETRY_SECONDS = 5.0
"""The same of an address that another program has."""
RENEW_SECONDS = 3600.0
_GRPC_END_SECONDS = 5.0
"""How long the gRPC server has to finish. It ends by itself in any case."""


class ApiServer:
    """From `start` to `close`. It borrows the store. Where it can't listen the daemon goes on: the log says why.

    `system`: it answers every user of the machine, at the machine's socket too, and each has the role user in the
    namespace of their own name. `grpc`: the gRPC server, which answers as long as this one does, at `grpc_host`.
    """

    def __init__(
        self, home: Path, store: Store, settings: ApiSettings = ApiSettings(), *, mounts: Sequence[str] = (),
        metrics: DaemonMetrics | None = None, system: bool = False, grpc: ChildProcess | None = None,
        grpc_host: str = "", blobs: BlobStore | None = None, retry_seconds: float = RETRY_SECONDS,
    ) -> None:  # fmt: skip
        self._home = home
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._sockets = {str(paths.api_socket(home)): 0o600}
        if system:
            # Whoever connects is known by the kernel, and may what their roles say.
            self._sockets[paths.SYSTEM_SOCKET] = 0o666
        self._system = system
        self._mounts = mounts
        self._grpc = grpc
        self._grpc_host = grpc_host
        self._blobs = blobs
        self._retry_seconds = retry_seconds
        self._closed = threading.Event()
        self.listens = threading.Event()
        """Set while requests are answered at the socket."""
        self.listens_encrypted = threading.Event()
        """Set while requests are answered over TLS."""
        self._thread = threading.Thread(target=self._run, name="api-server", daemon=True)

    def start(self) -> None:
        """May be called again. Returns at once, since what speaks HTTP takes its time to load."""
        if self._thread.ident is None:
            self._thread.start()

    def close(self) -> None:
        """End the requests that are open, and let another daemon listen."""
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            lock = os.open(self._home / "api.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            _log.error("the API is not served", error=str(error))
            return
        try:
            if self._take(lock):
                self._serve()
        except Exception as error:
            _log.error("the API is not served", exc_info=error)
        finally:
            os.close(lock)

    def _take(self, lock: int) -> bool:
        """Wait until no other daemon listens; False where this one ends before."""
        said = False
        while not self._closed.is_set():
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                taken = next(filter(unix_socket.answers, self._sockets), None)
                if taken is None:
                    return True
                if not said:
                    _log.warning("another process listens in the place of the API", socket=taken)
                    said = True
            except (BlockingIOError, PermissionError):
                pass
            self._closed.wait(self._retry_seconds)
        return False

    def _serve(self) -> None:
        from cumulus.infrastructure import LocalInfrastructure
        from cumulus.server.api import Api
        from cumulus.server.encrypted_api import EncryptedApi
        from cumulus.server.local_page import LocalPage
        from cumulus.server.watches import WatchBridge
        from cumulus.service.addresses import NO_GRPC, grpc_address
        from cumulus.service.service import Service

        service = Service.of_daemon(
            self._store, self._home, system=self._system, mounts=self._mounts,
            infrastructure=LocalInfrastructure(self._home, self._blobs), grpc=self._grpc is not None,
        )  # fmt: skip
        bridge = WatchBridge(self._store)
        hosts = [self._grpc_host] if self._grpc_host else []
        names = host_names.names({self._settings.address[0], *hosts}, self._settings.names)
        api = Api(service, bridge, metrics=self._metrics, names={*names, socket.gethostname()})
        encrypted = EncryptedApi(self._home, api, self._settings, hosts)
        page = LocalPage(self._home, api, self._settings.page)
        listener = _listener(api, self._sockets)
        if self._grpc is None:
            # Whoever asks for it is told, and not sent to where it once was.
            grpc_address.write(self._home, NO_GRPC)
        try:
            # Before anybody can ask for a link to it.
            page.open()
            listener.start()
            _log.info("the API is served", sockets=" ".join(self._sockets))
            self.listens.set()
            self._serve_encrypted(encrypted)
        finally:
            self.listens.clear()
            self.listens_encrypted.clear()
            if self._grpc is not None:
                self._grpc.close()
            # A socket that is left behind means that its daemon died.
            for path in self._sockets:
                Path(path).unlink(missing_ok=True)
            # What streams ends first, so that the listeners have nothing to wait for.
            bridge.close()
            api.streams.close()
            encrypted.close()
            page.close()
            listener.close()
            api.close()
            if self._grpc is not None:
                self._grpc.join(_GRPC_END_SECONDS)

    def _serve_encrypted(self, encrypted: EncryptedApi) -> None:
        """Until this one is closed."""
        from cumulus.lib.fingerprint import fingerprint
        from cumulus.server.encrypted_api import said

        problem = ""
        while not self._closed.is_set():
            if encrypted.is_open:
                encrypted.renew()
                self._closed.wait(RENEW_SECONDS)
                continue
            try:
                address = encrypted.open()
            except (OSError, ValueError, CumulusError) as error:
                if said(error) != problem:
                    problem = said(error)
                    _log.error("the API is not served over TLS", listen=self._settings.listen, error=problem)
                self._start_grpc()
                self._closed.wait(ADDRESS_RETRY_SECONDS)
            else:
                authority = fingerprint(address.ca) if address.ca else "one that systems know"
                _log.info("the API is served", address=address.url, authority=authority)
                self.listens_encrypted.set()
                self._start_grpc()

    def _start_grpc(self) -> None:
        """After the first try to open the API over TLS, which made the certificate."""
        if self._grpc is not None:
            self._grpc.start()


def _listener(api: Api, sockets: Mapping[str, int]) -> Listener:
    from cumulus.server.http.app import make_app
    from cumulus.server.http.identities import by_peer
    from cumulus.server.http.listener import Listener
    from cumulus.service.accounts import Accounts

    return Listener(
        make_app(api, by_peer(Accounts(), api)), [unix_socket.listen(path, mode) for path, mode in sockets.items()]
    )
