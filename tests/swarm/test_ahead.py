"""A checkpoint that is on its way to the next node when the daemon dies."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cumulus.checkpoint import layout
from tests.lab.node import Node
from tests.swarm.control import Control
from tests.swarm.test_faults import settled
from tests.swarm.test_programs import without_image
from tests.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]

HELD = f"""
import importlib.util, os, sys, time
sys.path[:0] = [{str(ROOT)!r}]
spec = importlib.util.spec_from_file_location("files", "/srv/files.py")
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
sent = files._send_file

def held(*given):
    open("/srv/begun", "w").close()
    while not os.path.exists("/srv/go"):
        time.sleep(0.05)
    sent(*given)

files._send_file = held
sys.exit(files.main(sys.argv[1:]))
"""
"""The program that sends a checkpoint, which stops between its manifest and its files."""


@contextmanager
def held_up(node: Node) -> Iterator[Path]:
    """What the node sends of checkpoints stops amid each until the block ends. What is there once one has stopped."""
    program = ROOT / "cumulus" / "uploader" / "files.py"
    shutil.copy(program, node.own / "files.py")
    (node.own / "held.py").write_text(HELD)
    node.inside("mount", "--bind", "/srv/held.py", str(program))
    try:
        yield node.own / "begun"
    finally:
        node.inside("umount", str(program))
        (node.own / "go").touch()


def test_a_daemon_that_is_killed_while_a_checkpoint_comes_ahead(control: Control) -> None:
    """Nothing is left of that one; the next daemon brings it again, before anything is leased there."""
    one, two = control.lab.workers
    trains = control.lab.shared / f"trains-{control.env['SWARM_INSTANCE']}.py"
    trains.write_text(
        f"import socket, sys, time\nsys.path.insert(0, {str(ROOT)!r})\nfrom cumulus import checkpoint\n"
        "state = checkpoint.load_checkpoint()\nprint(socket.gethostname(), state and state['step'])\n"
        "if state: sys.exit()\ncheckpoint.save_checkpoint({'step': 5, 'weights': bytes(2**21)}, step=5)\n"
        "while not checkpoint.should_checkpoint(): time.sleep(0.05)\nsys.exit(75)\n"
    )
    share = {"memory": "60%", "duration": "10m"}
    # A promise is written down where there are queues.
    queue = {"apiVersion": "cumulus.dev/v1alpha1", "kind": "Queue", "metadata": {"name": "default"}, "spec": {}}
    control.ok("cordon", two.name)
    script = f"exec {sys.executable} /mnt/{trains.name}"
    moves = without_image("moves", script, "", checkpoint={"path": "saved"}, **share)
    moves["spec"]["gpu"]["selector"] = {"nodeLabels": {"kind": "worker"}}
    control.apply(queue, moves)
    eventually(lambda: (status(control).get("checkpoint") or {}).get("step") == 5, what="it has saved")
    control.ok("uncordon", two.name)
    control.apply(without_image("fills", "sleep 600", two.name, **share))
    control.ok("wait", "gpujob/fills", "--for=condition=Running", "--timeout=200s")
    control.ok("cordon", one.name)
    control.ok("suspend", "job", "moves")
    control.ok("wait", "gpujob/moves", "--for=condition=Suspended", "--timeout=200s")
    kept = two.chronos_home / "programs" / "0" / control.get("job", "moves")["metadata"]["uid"] / "checkpoint" / "saved"
    with held_up(one) as begun:
        # There is no room: it is promised what the filler has.
        control.ok("resume", "job", "moves")
        eventually(begun.exists, what="its checkpoint is on its way")
        eventually(lambda: list(kept.glob(".tmp-*")), what="it is being written")
        assert layout.steps(str(kept)) == []
        control.daemons[-1].kill()
        control.daemons[-1].wait()
        eventually(lambda: not list(kept.iterdir()), what="nothing is left of it")
    control.serve()
    eventually(lambda: (status(control).get("prefetch") or {}).get("state") == "Arrived", what="it came again")
    assert [each.name for each in kept.iterdir()] == [layout.step_name(5)]
    layout.verify(str(kept), 5)
    assert control.phase("moves") == "Pending"
    control.ok("delete", "job", "fills")
    control.ok("wait", "gpujob/moves", "--for=condition=Succeeded", "--timeout=200s")
    assert control.ok("logs", "moves").split() == [two.name, "5"]
    assert len(control.attempts("moves")) == 2
    control.ok("delete", "job", "moves")
    eventually(lambda: not kept.exists(), what="what came ahead went with the job")
    control.ok("uncordon", one.name)
    settled(control)


def status(control: Control) -> dict[str, Any]:
    return dict(control.get("job", "moves").get("status", {}))
