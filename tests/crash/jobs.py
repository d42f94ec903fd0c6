"""What the crash loop runs: shell scripts that write down what becomes of them, and the end that each must come to.

A record is one line, appended by one write(2): WHAT JOB ATTEMPT REPLICA LEASE UPTIME [CODE]. WHAT is `start`, `tick`
(it lives) or `end`. UPTIME is the kernel's, in seconds to 10 ms.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

API = "cumulus.dev/v1alpha1"


class Record(NamedTuple):
    what: str
    job: str
    attempt: int
    replica: int
    lease: str
    uptime: float
    code: str


@dataclass(frozen=True)
class Script:
    """A kind of job: its shell commands after the prelude, what its spec adds, and how it must end."""

    name: str
    body: str
    ends: str
    reason: str = ""
    seconds: str = "10m"
    limit: int = 0
    replicas: int = 1
    checkpoint: dict[str, str] | None = None


# `sync` so that a record is on the disk before what follows it, as a careful job would have it.
_PRELUDE = """R={records}
say() {{ read -r up _ </proc/uptime
echo "$1 $CUMULUS_JOB $CUMULUS_ATTEMPT $CUMULUS_REPLICA $CHRONOS_PARTITION_ID $up $2" >>$R; }}
live() {{ while :; do say tick; sleep 0.2; done; }}
say start; sync -d $R
"""
_DONE = "say end 0; sync -d $R; exit 0"
_FAIL = "say end 3; sync -d $R; exit 3"

SCRIPTS = (
    Script("short", f"sleep 0.{{digit}}; {_DONE}", "Succeeded"),
    Script("long", f"for i in 1 2 3 4 5 6 7 8; do say tick; sleep 0.{{digit}}; done; {_DONE}", "Succeeded"),
    Script("bad", f"sleep 0.1; {_FAIL}", "Failed", "Error", limit=2),
    Script(
        "flaky",
        f'if [ $(grep -c "^end $CUMULUS_JOB .* 3$" $R) -lt 2 ]; then {_FAIL}; fi; sleep 0.2; {_DONE}',
        "Succeeded",
        limit=2,
    ),
    Script("late", "live", "Failed", "LeaseExpired", seconds="2s"),
    Script(
        "stubborn",
        "trap '' TERM; export R; ( setsid sh -c \"trap '' TERM; while :; do $(live_text); done\" & ); live",
        "Failed",
        "LeaseExpired",
        seconds="2s",
        checkpoint={"gracePeriod": "1s", "onExpiry": "Fail"},
    ),
    Script(
        "requeued",
        f'if [ $(grep -c "^start $CUMULUS_JOB " $R) -lt 3 ]; then live; fi; {_DONE}',
        "Succeeded",
        seconds="2s",
        checkpoint={"gracePeriod": "1s", "onExpiry": "Requeue"},
    ),
    Script(
        "leaves-one-behind", f"( setsid sh -c 'trap \"\" TERM; exec sleep 600' & ); sleep 0.2; {_DONE}", "Succeeded"
    ),
    Script("gang", f"say tick; sleep 0.{{digit}}; {_DONE}", "Succeeded", replicas=3),
    Script(
        "split-gang",
        f'if [ "$CUMULUS_REPLICA" = 1 ]; then sleep 0.3; {_FAIL}; fi; live',
        "Failed",
        "Error",
        replicas=2,
    ),
)

# The stubborn child ticks too: a tick after the lease's end would tell on it.
_TICK = (
    'read -r up _ </proc/uptime; echo \\"tick \\$CUMULUS_JOB \\$CUMULUS_ATTEMPT \\$CUMULUS_REPLICA'
    ' \\$CHRONOS_PARTITION_ID \\$up\\" >>\\$R; sleep 0.2'
)


def manifest(name: str, script: Script, rng: random.Random, records: Path) -> dict[str, Any]:
    """A job that runs the script in a share of a device."""
    body = script.body.replace("{digit}", str(rng.randint(1, 9))).replace("$(live_text)", _TICK)
    share = rng.choice((5, 10, 20, 30)) if script.replicas == 1 else rng.choice((5, 15, 30))
    spec: dict[str, Any] = {
        "command": ["/bin/sh", "-c", _PRELUDE.format(records=records) + body],
        "gpu": {"memory": f"{share}%", "duration": script.seconds},
        "replicas": script.replicas,
        "retry": {"limit": script.limit, "backoff": "100ms"},
    }
    if script.checkpoint:
        spec["checkpoint"] = script.checkpoint
    return {"apiVersion": API, "kind": "GPUJob", "metadata": {"name": name}, "spec": spec}


def partition(name: str, rng: random.Random) -> dict[str, Any]:
    """A share taken by hand, which ends by itself."""
    spec = {"memory": f"{rng.choice((5, 10, 25))}%", "duration": f"{rng.choice((1, 2, 3))}s"}
    return {"apiVersion": API, "kind": "GPUPartition", "metadata": {"name": name}, "spec": spec}


def read_records(path: Path) -> Iterator[Record]:
    """What the jobs wrote, in the order in which they did."""
    if path.exists():
        for line in path.read_text().splitlines():
            what, job, attempt, replica, lease, uptime, *code = line.split(" ")
            yield Record(what, job, int(attempt), int(replica), lease, float(uptime), (code or [""])[0])
