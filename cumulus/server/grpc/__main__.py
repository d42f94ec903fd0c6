"""`python -m cumulus.server.grpc`: the daemon starts it with a line on standard input. It ends when that is closed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import structlog

from cumulus import log
from cumulus.errors import CumulusError
from cumulus.server.grpc.launch import Launch
from cumulus.server.grpc.server import serve


def main() -> int:
    launch = Launch.read(sys.stdin.buffer.readline())
    # The daemon reads these lines and says them in its own log.
    log.configure(format="json", level=launch.log_level)
    try:
        asyncio.run(_until_the_daemon_ends(launch))
    except (OSError, CumulusError) as error:
        structlog.get_logger("cumulus.grpc").error("gRPC is not served", error=str(error))
        return 1
    except Exception as error:
        structlog.get_logger("cumulus.grpc").error("gRPC is not served", exc_info=error)
        return 1
    return 0


async def _until_the_daemon_ends(launch: Launch) -> None:
    ended, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_input() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            ended.set()

    loop.add_reader(0, on_input)
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await serve(launch, ended)


if __name__ == "__main__":
    raise SystemExit(main())
