"""An orchestrator in this process that runs calls with the real runner, one process each, and fails on demand.

It keeps what a server keeps on disk (blobs, jobs, results, logs) through `restart`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

from cumulus.calls import envelope, outcome, session
from cumulus.calls.envelope import Envelope
from cumulus.calls.outcome import OF_RUNNER, Outcome
from cumulus.rpc import orchestrator_pb2 as pb
from cumulus.rpc.orchestrator_pb2_grpc import OrchestratorServicer, add_OrchestratorServicer_to_server
from cumulus.runner.build import ensure_runner
from cumulus.sdk.endpoint import ServerAddress

KEPT_LOG = 64 * 2**20


class FakeJob:
    """A job, and what its process made."""

    def __init__(self, document: dict[str, Any], directory: Path) -> None:
        self.document = document
        self.directory = directory
        self.log = bytearray()
        self.dropped = 0
        self.over = threading.Event()
        self.changed = threading.Condition()
        self.outcome: Outcome | None = None
        self.result = b""
        self.process: subprocess.Popen[bytes] | None = None
        self.executed = threading.Thread()
        self.deleted = False
        self.attended = 0
        self.held = False
        """Not over when its process ends: another one is to come."""

    def end(self, found: Outcome, result: bytes = b"") -> None:
        """As the job controller would."""
        self.outcome, self.result = found, result
        good = found.outcome == outcome.RETURNED
        self.document["status"] = {"phase": "Succeeded" if good else "Failed"}
        with self.changed:
            self.over.set()
            self.changed.notify_all()


class FakeOrchestrator(OrchestratorServicer):
    """Listens on a Unix socket below `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.blobs: dict[str, bytes] = {}
        self.partial: dict[str, bytes] = {}
        self.jobs: dict[str, FakeJob] = {}
        self.keys: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        self.received = 0
        """Bytes of blobs."""
        self.lost_answers = 0
        """How many answers to Submit get lost."""
        self.cut_after = 0
        """Cut the next result, or log, after this many bytes."""
        self.next_outcome: tuple[Outcome, bytes] | None = None
        """What the next job comes to, which does not run."""
        self.environment: dict[str, str] = {}
        self._closed = False
        self._server: grpc.Server | None = None
        self.start()

    @property
    def address(self) -> ServerAddress:
        return ServerAddress(f"unix:{self.directory}/grpc.sock", "default", token="fake")

    def start(self) -> None:
        server = grpc.server(futures.ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
        add_OrchestratorServicer_to_server(self, server)
        server.add_insecure_port(f"unix:{self.directory}/grpc.sock")
        server.start()
        self._server = server

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        self._closed = True
        self.stop()
        for job in self.jobs.values():
            self.kill(job)

    def start_again(self, job: FakeJob) -> None:
        """As another attempt would."""
        # What follows the attempt before still looks at whether the job is held.
        job.executed.join(30)
        job.held = False
        shutil.rmtree(job.directory)
        self._start(job)

    def _start(self, job: FakeJob) -> None:
        job.executed = threading.Thread(target=self._execute, args=(job,), daemon=True)
        job.executed.start()

    def kill(self, job: FakeJob) -> None:
        if job.process is not None and job.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.process.pid, signal.SIGKILL)

    @property
    def last(self) -> FakeJob:
        return list(self.jobs.values())[-1]

    # Blobs

    def PutBlob(self, request_iterator: Iterator[pb.PutBlobRequest], context: grpc.ServicerContext) -> pb.Blob:
        self.asked["PutBlob"] += 1
        header = next(request_iterator).header
        content = self.partial.get(header.sha256, b"")[: header.offset]
        if len(content) != header.offset:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not where the blob ends")
        for message in request_iterator:
            self.received += len(message.data)
            content += message.data
            self.partial[header.sha256] = content
            if 0 < self.cut_after < len(content):
                self.cut_after = 0
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        if hashlib.sha256(content).hexdigest() != header.sha256 or len(content) != header.size:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not that blob")
        self.blobs[header.sha256] = content
        return pb.Blob(sha256=header.sha256, size=header.size, received=header.size)

    def FindBlobs(self, request: pb.FindBlobsRequest, context: grpc.ServicerContext) -> pb.FindBlobsResponse:
        self.asked["FindBlobs"] += 1
        found = [
            pb.Blob(sha256=each.sha256, size=each.size,
                    received=len(self.blobs.get(each.sha256, self.partial.get(each.sha256, b""))))
            for each in request.blobs
        ]  # fmt: skip
        return pb.FindBlobsResponse(blobs=found)

    def GetBlob(self, request: pb.GetBlobRequest, context: grpc.ServicerContext) -> Iterator[pb.Chunk]:
        yield pb.Chunk(data=self.blobs[request.sha256][request.offset :])

    # Jobs

    def List(self, request: pb.ListRequest, context: grpc.ServicerContext) -> pb.ListResponse:
        return pb.ListResponse(jobs=[pb.Job(object=json.dumps(job.document).encode()) for job in self.jobs.values()])

    def Watch(self, request: pb.WatchRequest, context: grpc.ServicerContext) -> Iterator[pb.Job]:
        yield self.Get(pb.GetRequest(job=request.job), context)

    def Submit(self, request: pb.SubmitRequest, context: grpc.ServicerContext) -> pb.Job:
        self.asked["Submit"] += 1
        name = self.keys.get(request.idempotency_key)
        if name is None:
            document = json.loads(request.object)
            call = document["spec"]["call"]
            named = {part: call[part] for part in ("payload", "archive", "environment") if part in call}
            named |= {f"arguments[{at}]": sha256 for at, sha256 in enumerate(call.get("arguments", ()))}
            for part, sha256 in named.items():
                if sha256 not in self.blobs:
                    error = pb.Error(
                        reason="InvalidObject", message=f"spec.call.{part}: you have no such blob",
                        problems=[pb.Problem(field=f"spec.call.{part}", message="you have no such blob")],
                    )  # fmt: skip
                    context.set_trailing_metadata((("cumulus-error-bin", error.SerializeToString()),))
                    context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            name = document["metadata"]["name"]
            document["metadata"]["uid"] = str(uuid.uuid4())
            document["status"] = {"phase": "Running"}
            self.keys[request.idempotency_key] = name
            job = self.jobs[name] = FakeJob(document, self.directory / name)
            if self.next_outcome is not None:
                job.end(*self.next_outcome)
                self.next_outcome = None
            else:
                self._start(job)
        if self.lost_answers > 0:
            self.lost_answers -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")
        return pb.Job(object=json.dumps(self.jobs[name].document).encode())

    def Get(self, request: pb.GetRequest, context: grpc.ServicerContext) -> pb.Job:
        return pb.Job(object=json.dumps(self._job(request.job, context).document).encode())

    def Cancel(self, request: pb.CancelRequest, context: grpc.ServicerContext) -> pb.Job:
        self.asked["Cancel"] += 1
        job = self._job(request.job, context)
        job.deleted = True
        self.kill(job)
        with job.changed:
            job.over.set()
            job.changed.notify_all()
        return pb.Job(object=json.dumps(job.document).encode(), deleted=True)

    def Attend(self, request: pb.AttendRequest, context: grpc.ServicerContext) -> pb.AttendResponse:
        self._job(request.job, context).attended += 1
        return pb.AttendResponse(next=0.5)

    def Result(self, request: pb.ResultRequest, context: grpc.ServicerContext) -> Iterator[pb.ResultChunk]:
        self.asked["Result"] += 1
        job = self._job(request.job, context)
        until = time.monotonic() + request.timeout if request.timeout else None
        while not job.over.wait(0.05):
            if until is not None and time.monotonic() > until:
                error = pb.Error(reason="WaitTimedOut", message="not over yet")
                context.set_trailing_metadata((("cumulus-error-bin", error.SerializeToString()),))
                context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "not over yet")
            if not context.is_active():
                return
        self._job(request.job, context)
        assert job.outcome is not None
        yield pb.ResultChunk(
            header=pb.ResultHeader(
                outcome=job.outcome.to_json(), sha256=job.outcome.result, size=len(job.result),
                job=pb.Job(object=json.dumps(job.document).encode()),
            )
        )  # fmt: skip
        sent = 0
        for begin in range(request.offset, len(job.result), 1000):
            data = job.result[begin : begin + 1000]
            if 0 < self.cut_after < sent + len(data):
                self.cut_after = 0
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            sent += len(data)
            yield pb.ResultChunk(data=data)

    def Logs(self, request: pb.LogsRequest, context: grpc.ServicerContext) -> Iterator[pb.LogChunk]:
        job = self._job(request.job, context)
        at = int(request.position or 0)
        while True:
            was_over = job.over.is_set()
            dropped = max(job.dropped - at, 0)
            at = max(at, job.dropped)
            data = bytes(job.log[at : at + 7])
            at += len(data)
            if data:
                yield pb.LogChunk(data=data, position=str(at), dropped=dropped)
                if 0 < self.cut_after < at:
                    self.cut_after = 0
                    context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            elif was_over or not request.follow or not context.is_active():
                return
            else:
                with job.changed:
                    job.changed.wait(0.02)

    def Call(
        self, request_iterator: Iterator[pb.CallRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.CallResponse]:
        first = next(request_iterator, None)
        if first is None:
            return
        job = self._job(first.start.job, context)
        connection = None
        while connection is None:
            try:
                connection = session.connect(str(job.directory))
            except session.SessionEnded:
                if job.over.wait(0.02):
                    context.abort(grpc.StatusCode.NOT_FOUND, "over")
        message: pb.CallRequest | None = first
        while message is not None:
            start = message.start
            if not start.size:
                message = next(request_iterator, None)
                continue
            payload = start.data
            while len(payload) < start.size:
                more = next(request_iterator, None)
                if more is None:
                    return
                payload += more.data
            try:
                found, size, chunks = connection.call(len(payload), [payload])
                result = b"".join(chunks)
            except (session.SessionEnded, OSError):
                if not job.held:
                    job.over.wait(5)
                error = pb.Error(reason="BackendError", message="the session went away")
                context.set_trailing_metadata((("cumulus-error-bin", error.SerializeToString()),))
                context.abort(grpc.StatusCode.UNAVAILABLE, "the session went away")
            yield pb.CallResponse(id=start.id, outcome=found.to_json(), size=size, data=result)
            message = next(request_iterator, None)

    def _job(self, reference: pb.JobRef, context: grpc.ServicerContext) -> FakeJob:
        job = self.jobs.get(reference.name)
        if job is None or job.deleted:
            context.abort(grpc.StatusCode.NOT_FOUND, f"gpujob/{reference.name} not found")
        assert job is not None
        return job

    def _execute(self, job: FakeJob) -> None:
        call = job.document["spec"]["call"]
        job.directory.mkdir(mode=0o700)
        made = Envelope(call["python"], call["payload"], call.get("session", False), "default", "job", 1)
        (job.directory / envelope.CALL).write_bytes(made.to_json())
        (job.directory / envelope.PAYLOAD).write_bytes(self.blobs[call["payload"]])
        for sha256 in call.get("arguments", ()):
            (job.directory / envelope.argument_file(sha256)).write_bytes(self.blobs[sha256])
        if "archive" in call:
            (job.directory / envelope.ARCHIVE).write_bytes(self.blobs[call["archive"]])
        runner = ensure_runner(str(self.directory))
        env = {"PATH": os.defpath, "PYTHONUNBUFFERED": "1", "CUMULUS_JOB": job.document["metadata"]["name"]}
        env |= {each["name"]: each["value"] for each in job.document["spec"].get("env", ())} | self.environment
        job.process = subprocess.Popen(
            [sys.executable, runner, str(job.directory)], cwd=job.directory, env=env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        if self._closed or job.deleted:
            # Whoever ended it found no process yet.
            self.kill(job)
        assert job.process.stdout is not None
        while data := os.read(job.process.stdout.fileno(), 65536):
            with job.changed:
                job.log += data
                job.changed.notify_all()
        code = job.process.wait()
        if job.held:
            return
        try:
            found = Outcome.read((job.directory / envelope.OUTCOME).read_bytes(), OF_RUNNER)
            result = (job.directory / envelope.RESULT).read_bytes() if found.result else b""
        except FileNotFoundError:
            found, result = Outcome(outcome.CRASHED, text=f"ended with exit code {code}"), b""
        job.end(found, result)
