"""On a lab of three nodes: from apply to a running container beside Swarm's own client, a hundred services beside
`docker stack deploy`, and what an idle daemon asks of the engine."""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.harness import LeftOut, Result, at_most, limit, reported
from cumulus.backends.swarm.engine import Engine
from cumulus.clock import parse_timestamp
from tests.lab.lab import Lab, lab, missing
from tests.swarm.bed import IMAGE
from tests.swarm.control import Control, job
from tests.swarm.image import busybox

ROUNDS = 15
MANY = 100
IDLE_SECONDS = 30.0
RUNNING = "from apply to container running"
STORED = "from the job in the store to its container running"
BATCH = f"{MANY} services until all containers run"


def run() -> Iterator[Result]:
    if why := missing():
        yield LeftOut(RUNNING, why)
        return
    with tempfile.TemporaryDirectory() as directory, lab(2) as made:
        root = Path(directory) / "image"
        root.mkdir()
        busybox(root)
        made.image(IMAGE, root)
        for name in made.nodes:
            made.manager.docker("node", "update", "--label-add", f"place={name}", name)
        control = Control(made, Path(directory) / "control")
        proxy = Proxy(made.manager.socket.removeprefix("unix://"), Path(directory) / "proxy.sock")
        control.env["SWARM_MANAGER"] = f"unix://{proxy.path}"
        try:
            control.serve()
            control.ready()
            yield from _one(made, control)
            yield _many(made, control, Path(directory))
            yield _idle(proxy)
        finally:
            control.stop()


def _one(made: Lab, control: Control) -> Iterator[Result]:
    """In turn, so that both meet the same machine; from the start of the command to the container's process."""
    ours, bare, stored = [], [], []
    for number in range(ROUNDS):
        selector = {"selector": {"nodeLabels": {"place": "worker1"}}}
        object = job(f"one-{number}", "sleep 300", memory="1%", gpu=selector)
        took, running = _until(made, f"cumulus.dev/job=one-{number}", lambda object=object: control.apply(object))
        ours.append(took)
        created = parse_timestamp(control.get("job", f"one-{number}")["metadata"]["creationTimestamp"])
        stored.append((running - created).total_seconds())
        control.ok("delete", "job", f"one-{number}")
        create = [
            "docker", "-H", made.manager.socket, "service", "create", "--detach", "--quiet", "--no-resolve-image",
            "--restart-condition", "none", "--init", "--constraint", "node.hostname==worker1", "--container-label",
            f"cumulus.dev/job=bare-{number}", "--name", f"bare-{number}", IMAGE, "sleep", "300",
        ]  # fmt: skip
        bare.append(
            _until(
                made,
                f"cumulus.dev/job=bare-{number}",
                lambda create=create: subprocess.run(create, check=True, stdout=subprocess.DEVNULL),
            )[0]
        )
        made.manager.docker("service", "rm", f"bare-{number}")
    peer = {"unit": "s", "peer_name": "docker service create"}
    yield at_most(
        RUNNING, statistics.median(ours), statistics.median(bare), 1.10, **peer,
        note="ours finds the node and leases the share there over SSH first",
    )  # fmt: skip
    yield reported(STORED, statistics.median(stored), statistics.median(bare), **peer)


def _until(made: Lab, label: str, begin: Callable[[], object], count: int = 1) -> tuple[float, datetime]:
    """Seconds from before `begin` until `count` containers with the label run, by their nodes' engines; and when."""
    engines = [Engine([node.socket]) for node in made.nodes.values()]
    start = time.perf_counter()
    thread = threading.Thread(target=begin)
    thread.start()
    while sum(_running(engine, label) for engine in engines) < count:
        assert time.perf_counter() - start < 300, f"{label} does not run"
        time.sleep(0.01 if count == 1 else 0.1)
    took, now = time.perf_counter() - start, datetime.now(UTC)
    thread.join()
    for engine in engines:
        engine.close()
    return took, now


def _running(engine: Engine, label: str) -> int:
    return sum(container["State"] == "running" for container in engine.containers([label]))


def _many(made: Lab, control: Control, directory: Path) -> Result:
    service = {"image": IMAGE, "command": ["sleep", "600"], "labels": {"batch": "1"}, "init": True,
               "deploy": {"restart_policy": {"condition": "none"}}}  # fmt: skip
    stack = directory / "stack.json"
    stack.write_text(json.dumps({"version": "3.8", "services": {f"s{n}": service for n in range(MANY)}}))
    deploy = [
        "docker",
        "-H",
        made.manager.socket,
        "stack",
        "deploy",
        "--resolve-image=never",
        "-c",
        str(stack),
        "batch",
    ]
    peer, _ = _until(made, "batch=1", lambda: subprocess.run(deploy, check=True, stdout=subprocess.DEVNULL), MANY)
    made.manager.docker("stack", "rm", "batch")
    while made.manager.docker("service", "ls", "-q") or sum(
        len(n.docker("ps", "-q").split()) for n in made.nodes.values()
    ):
        time.sleep(0.5)
    share = {"compute": "1%"}
    jobs = [job(f"many-{n}", "sleep 600", memory="1%", duration="30m", gpu=dict(share)) for n in range(MANY)]

    ours, _ = _until(made, "cumulus.dev/instance", lambda: control.apply(*jobs), MANY)
    control.ok("delete", "job", "--all", timeout=300)
    return at_most(BATCH, ours, peer, 1, unit="s", peer_name="docker stack deploy")


def _idle(proxy: Proxy) -> Result:
    time.sleep(5)
    before = proxy.requests
    time.sleep(IDLE_SECONDS)
    calls = (proxy.requests - before) / IDLE_SECONDS
    return limit("an idle daemon's calls to the engine", calls, 1, unit="a second")


class Proxy:
    """Passes on what goes between a client and an engine, and counts the requests."""

    def __init__(self, engine: str, path: Path) -> None:
        self.path = path
        self.requests = 0
        self._engine = engine
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._engine)
            for source, sink, counted in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pass_on, args=(source, sink, counted), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(65536):
                self.requests += data.count(b" HTTP/1.1\r\n") if counted else 0
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return
