"""`python -m cumulus.server.grpc`: the daemon starts it with a line on standard input. It ends when that is closed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from cumulus import log
from cumulus.errors import CumulusError
from cumulus.lib import collector
from cumulus.server.grpc.launch import Launch


def main() -> int:
    code = _main()
    collector.end()
    return code


def _main() -> int:
    collector.begin()
    launch = Launch.read(sys.stdin.buffer.readline())
    # The daemon reads these lines and says them in its own log.
    log.configure(format="json", level=launch.log_level)
    say = log.structlog.get_logger("cumulus.grpc")
    try:
        asyncio.run(_until_the_daemon_ends(launch))
    except (OSError, CumulusError) as error:
        say.error("gRPC is not served", error=str(error))
        return 1
    except Exception as error:
        say.error("gRPC is not served", exc_info=error)
        return 1
    return 0


async def _until_the_daemon_ends(launch: Launch) -> None:
    from cumulus.server.grpc.server import serve

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
