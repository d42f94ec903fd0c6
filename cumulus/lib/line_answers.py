"""The other end of `line_process`: answers lines of JSON, for as long as standard input is open.

Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NoReturn


def serve(answer: Callable[[Any], Any]) -> NoReturn:
    """Answer each request on standard input, until that ends; the process ends then."""
    answers = os.fdopen(os.dup(1), "w")
    # What a library prints must not be taken for an answer.
    os.dup2(2, 1)
    requests: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    while True:
        answers.write(json.dumps(answer(json.loads(requests.get()))) + "\n")
        answers.flush()


def _read(requests: SimpleQueue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # The main thread may be in a driver that hangs.
