"""Calls the driver's functions of `driver`, for as long as its standard input is open: a process of its own,
`python -I -S checkpoint_process.py`, since drivers hang and crash. `checkpoint_client` starts it and asks.

    <- {"find": [PID, …]}                               a line a request
    -> {"found": [PID, …]}                              those in which the driver runs
    <- {"call": "lock", "pid": PID, "start": TICKS, "arguments": [10000]}
    -> {"code": 0, "value": 0}                          the driver's code (-1: the process is gone), and what it tells
    -> {"error": "…"}                                   the library is not there

Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from queue import SimpleQueue
from typing import Any

if __name__ == "__main__":
    # Run by path: neither site-packages nor the working directory is on sys.path (-I -S).
    sys.path[0:0] = [os.path.abspath(__file__ + "/../../../..")]

from cumulus.chronos.parking.driver import GONE, CheckpointDriver
from cumulus.lib.processes import Identity, is_alive

CALLS = ("state", "lock", "checkpoint", "restore", "unlock")


def answer(driver: CheckpointDriver, asked: dict[str, Any]) -> dict[str, Any]:
    if "find" in asked:
        return {"found": [pid for pid in asked["find"] if driver.uses_cuda(pid)]}
    name, process = asked["call"], Identity(asked["pid"], asked["start"])
    if name not in CALLS:
        return {"error": f"{name!r} is none of {', '.join(CALLS)}"}
    # The number may be another process's by now.
    if not is_alive(process):
        return {"code": GONE, "value": 0}
    said = getattr(driver, name)(process.pid, *asked.get("arguments", ()))
    code, value = said if isinstance(said, tuple) else (said, 0)
    return {"code": code, "value": value}


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    # What a library prints must not be taken for an answer.
    os.dup2(2, 1)
    requests: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    driver: CheckpointDriver | None = None
    while True:
        asked = json.loads(requests.get())
        try:
            driver = driver or CheckpointDriver()
            said = answer(driver, asked)
        except OSError as error:
            said = {"error": str(error)}
        answers.write(json.dumps(said) + "\n")
        answers.flush()


def _read(requests: SimpleQueue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # The main thread may be in a driver that hangs.


if __name__ == "__main__":
    main()
