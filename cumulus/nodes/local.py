"""A channel to programs of containers of this machine: the same program that other nodes run over SSH, as a child."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading


def channel(engine: str) -> socket.socket:
    """The near end; see `lib.run_channel`. `engine`: the socket of the engine, "" for the usual one. Raises OSError."""
    near, far = socket.socketpair()
    with far:
        try:
            started = subprocess.Popen(
                [sys.executable, "-m", "cumulus.chronos", "channel", "--engine", engine],
                stdin=far.fileno(), stdout=far.fileno(), stderr=far.fileno(), cwd="/", start_new_session=True,
            )  # fmt: skip
        except BaseException:
            near.close()
            raise
    # It ends with the channel. Somebody must wait for it.
    threading.Thread(target=started.wait, name="run-channel-end", daemon=True).start()
    return near
