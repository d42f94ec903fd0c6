"""Calls of Python functions on leased shares: cold, in a session, and many at once."""

from __future__ import annotations

import importlib.util
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from benchmarks.harness import LeftOut, Result, at_least, in_rounds, running, until
from cumulus import environment
from cumulus.sdk import CumulusClient
from cumulus.sdk.session import Session

COLD_ROUNDS, SESSION_ROUNDS, SESSION_CALLS, MAP_ROUNDS, MAP_ITEMS = 7, 9, 200, 3, 1000
ARGUMENT = 2**30
FOR_BUCKET, BUCKET_ROUNDS = 256 * 2**20, 5
LARGE = 1000
"""Files of a large project."""
_METHOD = "/bench.Echo/Call"


def run() -> Iterator[Result]:
    with (
        tempfile.TemporaryDirectory() as directory, _daemon(Path(directory)), _client(Path(directory)) as client,
    ):  # fmt: skip
        client.run(lambda: 1)
        with client.session() as session:
            yield _in_session(session)
        yield from _map(client)
        yield _upload(client, Path(directory))
        yield from _cold(client, Path(directory))
    yield from _to_bucket()


def _client(directory: Path) -> CumulusClient:
    """Of a program that lies alone in its directory, as a user's first one does. In this repository the project would
    be all of its tests, and each call would carry and unpack them; the peers send no code at all."""
    project = directory / "project"
    project.mkdir()
    return CumulusClient(project=project)


def _one() -> int:
    return 1


def _cold(client: CumulusClient, directory: Path) -> Iterator[Result]:
    peers = {"submitit": _submitit, "ray": _ray}
    for name, peer in peers.items():
        what = "a function called in a fresh process, cold: seconds until its value is here"
        if importlib.util.find_spec(name) is None:
            yield LeftOut(f"{what}, beside {name}", f"{name} is not installed")
            continue
        with peer(directory) as theirs:
            ours, others = [], []
            for _ in range(COLD_ROUNDS):
                ours.append(_seconds(lambda: client.run(lambda: 1)))
                others.append(_seconds(theirs))
        yield in_rounds(what, ours, others, unit="s", peer_name=name, at_most=1)
    large = directory / "large"
    (large / "package").mkdir(parents=True)
    for number in range(LARGE):
        (large / "package" / f"module{number}.py").write_text(f"NUMBER = {number}\n" * 20)
    with CumulusClient(project=large, include=["package"]) as carrying:
        alone, carried = [], []
        carrying.run(lambda: 1)
        for _ in range(COLD_ROUNDS):
            carried.append(_seconds(lambda: carrying.run(lambda: 1)))
            alone.append(_seconds(lambda: client.run(lambda: 1)))
    yield in_rounds(
        f"the same from a project of {LARGE:,} files", carried, alone, unit="s", peer_name="from one of a single file"
    )


@contextmanager
def _submitit(directory: Path) -> Iterator[Callable[[], object]]:
    import submitit  # type: ignore[import-not-found]

    executor = submitit.LocalExecutor(folder=directory / "submitit")
    executor.update_parameters(timeout_min=5)
    yield lambda: executor.submit(_one).result()


@contextmanager
def _ray(directory: Path) -> Iterator[Callable[[], object]]:
    import ray  # type: ignore[import-not-found]

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    # A process of its own for each call, as ours has.
    function = ray.remote(max_calls=1)(lambda: 1)
    ray.get(function.remote())
    try:
        yield lambda: ray.get(function.remote())
    finally:
        ray.shutdown()


def _in_session(session: Session) -> Result:
    ours, bare = [], []
    payload = pickle.dumps((abs, (-1,), {}))
    session.run(abs, -1)
    with _echo() as ask:
        for _ in range(SESSION_ROUNDS):
            ours.append(_median(lambda: session.run(abs, -1)))
            bare.append(_median(lambda: pickle.loads(ask(pickle.dumps(pickle.loads(payload))))))
    return in_rounds(
        f"a call in a session, median of {SESSION_CALLS}", [1000 * each for each in ours],
        [1000 * each for each in bare], unit="ms", peer_name="a bare gRPC round trip and a pickle's", at_most=3,
    )  # fmt: skip


def _map(client: CumulusClient) -> Iterator[Result]:
    if importlib.util.find_spec("joblib") is None:
        yield LeftOut(f"map of {MAP_ITEMS:,} trivial items", "joblib is not installed")
        return
    from joblib import Parallel, delayed  # type: ignore[import-untyped]
    from joblib.externals.loky import get_reusable_executor  # type: ignore[import-untyped]

    ours, theirs = [], []
    items = range(-MAP_ITEMS, 0)
    for _ in range(MAP_ROUNDS):
        ours.append(MAP_ITEMS / _seconds(lambda: list(client.map(abs, items, workers=2))))
        get_reusable_executor().shutdown(wait=True)
        theirs.append(MAP_ITEMS / _seconds(lambda: Parallel(n_jobs=2)(delayed(abs)(item) for item in items)))
    yield in_rounds(
        f"map of {MAP_ITEMS:,} trivial items, two fresh workers", ours, theirs, unit="items/s",
        peer_name="joblib (loky)", at_least=0.5,
    )  # fmt: skip


def _upload(client: CumulusClient, directory: Path) -> Result:
    """Of a large argument, from the call until the server has all of it."""
    content = os.urandom(2**20) * (ARGUMENT // 2**20)
    source = directory / "source"
    source.write_bytes(content)

    def copy() -> None:
        with open(source, "rb") as read, open(directory / "copy", "wb") as written:
            while data := read.read(2**20):
                written.write(data)
            os.fsync(written.fileno())

    raw = _seconds(copy)
    (directory / "copy").unlink()
    source.unlink()
    ours = _submitted(client, content)
    return at_least(
        "an argument of 1 GiB: pickled, hashed and on the server's disk", ARGUMENT / 1e6 / ours, ARGUMENT / 1e6 / raw,
        0.9, unit="MB/s", peer_name="a file copied and synced",
    )  # fmt: skip


def _submitted(client: CumulusClient, content: bytes) -> float:
    """Seconds until the server has all of a call with that argument."""
    calls: list[Any] = []
    seconds = _seconds(lambda: calls.append(client.submit(len, content)))
    calls[0].cancel()
    return seconds


def _to_bucket() -> Iterator[Result]:
    """The same where blobs are in a bucket, beside boto3 with the same bytes and the same server."""
    what = f"an argument of {FOR_BUCKET // 2**20} MiB: pickled, hashed and in the bucket"
    try:
        from tests.s3 import seaweedfs_server
    except ImportError as error:
        yield LeftOut(what, f"there is no server: {error}")
        return
    import boto3

    with tempfile.TemporaryDirectory() as directory, seaweedfs_server() as server:
        bucket = server.bucket()
        assert bucket.keys is not None
        keys = {"AWS_ACCESS_KEY_ID": bucket.keys.access_key, "AWS_SECRET_ACCESS_KEY": bucket.keys.secret_key}
        place = {
            environment.S3_BUCKET: bucket.name, environment.S3_REGION: bucket.region,
            environment.S3_ENDPOINT: bucket.endpoint,
        }  # fmt: skip
        source = Path(directory, "source")
        with _daemon(Path(directory), {**keys, **place}), _client(Path(directory)) as client:
            theirs = boto3.client("s3", endpoint_url=bucket.endpoint, region_name=bucket.region)
            ours, boto = [], []
            for number in range(1 + BUCKET_ROUNDS):
                content = os.urandom(2**20) * (FOR_BUCKET // 2**20)
                ours.append(FOR_BUCKET / 1e6 / _submitted(client, content))
                source.write_bytes(content)
                put = partial(theirs.upload_file, str(source), bucket.name, f"boto{number}")
                boto.append(FOR_BUCKET / 1e6 / _seconds(put))
    # The first loads what the others have.
    yield in_rounds(what, ours[1:], boto[1:], unit="MB/s", peer_name="boto3's upload_file", at_least=0.9)


@contextmanager
def _daemon(directory: Path, more: Mapping[str, str] = {}) -> Iterator[None]:
    variables = {
        **more,
        "CUMULUS_HOME": str(directory / "state"), "CHRONOS_HOME": str(directory / "chronos"),
        "CHRONOS_MONITOR_IDLE": "1", "XDG_CONFIG_HOME": str(directory / "config"), "ORCHESTRATOR_PORT": "0",
    }  # fmt: skip
    os.environ.update(variables)
    command = [sys.executable, "-m", "cumulus.cli.main"]
    with running([*command, "serve"], log=directory / "serve.log"):
        wait = [*command, "wait", "node", "--all", "--for=condition=Ready", "--timeout=5s"]
        until(
            lambda: subprocess.run(wait, capture_output=True, check=False).returncode == 0, seconds=60,
            what="the node is ready",
        )  # fmt: skip
        yield


@contextmanager
def _echo() -> Iterator[Callable[[bytes], bytes]]:
    """A gRPC server that answers with what it got, in a process of its own."""
    with tempfile.TemporaryDirectory() as directory:
        socket = f"unix:{directory}/echo.sock"
        process = subprocess.Popen([sys.executable, "-c", f"from benchmarks.sdk import echo; echo({socket!r})"])
        try:
            with grpc.insecure_channel(socket) as channel:
                grpc.channel_ready_future(channel).result(30)
                yield channel.unary_unary(_METHOD)
        finally:
            process.terminate()
            process.wait()


def echo(socket: str) -> None:
    """The server of `_echo`."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    handler = grpc.unary_unary_rpc_method_handler(lambda data, context: data)
    server.add_registered_method_handlers("bench.Echo", {"Call": handler})
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", {"Call": handler}),))
    server.add_insecure_port(socket)
    server.start()
    server.wait_for_termination()


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _median(work: Callable[[], object]) -> float:
    return statistics.median(_seconds(work) for _ in range(SESSION_CALLS))
