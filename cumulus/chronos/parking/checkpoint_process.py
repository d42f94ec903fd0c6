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

import os
import sys
from functools import cache
from typing import Any

if __name__ == "__main__":
    # Run by path: neither site-packages nor the working directory is on sys.path (-I -S).
    sys.path[0:0] = [os.path.abspath(__file__ + "/../../../..")]

from cumulus.chronos.parking.driver import GONE, CheckpointDriver
from cumulus.lib import line_answers
from cumulus.lib.processes import ProcessIdentity, is_alive

CALLS = ("state", "lock", "checkpoint", "restore", "unlock")


def answer(driver: CheckpointDriver, asked: dict[str, Any]) -> dict[str, Any]:
    if "find" in asked:
        return {"found": [pid for pid in asked["find"] if driver.uses_cuda(pid)]}
    name, process = asked["call"], ProcessIdentity(asked["pid"], asked["start"])
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
    # Where the library is not there it is looked for again at the next request.
    driver = cache(CheckpointDriver)

    def answered(asked: Any) -> dict[str, Any]:
        try:
            return answer(driver(), asked)
        except OSError as error:
            return {"error": str(error)}

    line_answers.serve(answered)


if __name__ == "__main__":
    main()
