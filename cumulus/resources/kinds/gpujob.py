"""The registry's entry for GPUJob."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from cumulus.calls.envelope import RUNNER
from cumulus.clock import parse_timestamp, timestamp, to_the_second
from cumulus.resources import array_values, reruns
from cumulus.resources.columns import NOTHING, age, until
from cumulus.resources.condition_types import JobCondition
from cumulus.resources.documents import condition, lookup
from cumulus.resources.finalizers import JOB_FINALIZER
from cumulus.resources.job_phase import FINAL_PHASES
from cumulus.resources.key import Document
from cumulus.resources.kind import CellView, Column, Kind, Related
from cumulus.resources.quantity import bytes_in_words, format_duration, parse_duration
from cumulus.resources.query import Query
from cumulus.resources.roles import Role
from cumulus.resources.sections import Fields, Files, Rows, Section, Surroundings, Value, flat, moment

_OWNS = "GPUPartition"
_DIRECTORIES = 8
"""Shown of a job at most: the latest."""


def job_node(job: Document) -> str:
    """The nodes of the last attempt, unless the job only waits for its next."""
    attempts = lookup(job, "status.attempts") or []
    if not attempts:
        return ""
    last = attempts[-1]
    if last.get("endTime") and lookup(job, "status.phase") in ("Pending", "Suspended"):
        return ""
    nodes = list(dict.fromkeys(last.get("nodes") or [last.get("node", "")]))
    return ",".join(nodes)


def running_attempt(job: Document) -> Document | None:
    """The attempt whose program runs now; None where none does."""
    last: Document = (lookup(job, "status.attempts") or [{}])[-1]
    return last if last.get("startTime") and not last.get("endTime") else None


def job_attempts(job: Document) -> str:
    """How many attempts have started: one is counted by the controllers when it begins to wait for its share."""
    waiting = [a for a in lookup(job, "status.attempts") or () if not a.get("startTime")]
    return str((lookup(job, "status.attemptCount") or 0) - len(waiting))


def job_gpu(job: Document) -> str:
    """What a job leases: `0.5 for 1h`, with devices and replicas where there are several: `4x2x 20Gi for 1h`."""
    gpu = lookup(job, "spec.gpu") or {}
    counts = [n for n in (lookup(job, "spec.replicas") or 1, gpu.get("count") or 1) if n != 1]
    times = "".join(f"{n}x" for n in counts) + (" " if counts else "")
    return f"{times}{gpu.get('memory', '?')} for {duration(gpu.get('duration', ''))}"


def duration(value: str) -> str:
    """A duration as written, plain seconds in larger units."""
    return format_duration(float(value)) if value.isdigit() else value


def job_command(spec: Document) -> tuple[list[str], list[str]]:
    """The command and the arguments that a job's spec gives; of a call, what runs it on the node."""
    call = spec.get("call")
    if isinstance(call, dict):
        return [f"python{call.get('python', '3')}", RUNNER], []
    return list(spec.get("command") or ()), list(spec.get("args") or ())


def job_reason(job: Document) -> str:
    """Why the job is where it is: the reason of the condition that its phase rests on."""
    phase = lookup(job, "status.phase") or "Pending"
    for type in _REASON_OF_PHASE.get(phase, ()):
        found = condition(job, type)
        if found.get("reason") and (type == phase) == (found.get("status") == "True"):
            return str(found["reason"])
    return ""


def lost_gpu_hours(job: Document, now: datetime) -> float:
    """What its processes have done since the attempt that runs now began."""
    attempts = lookup(job, "status.attempts") or []
    if lookup(job, "status.phase") not in ("Running", "Checkpointing", "Parked") or not attempts:
        return 0.0
    start = attempts[-1].get("startTime")
    devices = (lookup(job, "spec.replicas") or 1) * (lookup(job, "spec.gpu.count") or 1)
    return float(devices) * max(0.0, (now - parse_timestamp(start)).total_seconds()) / 3600 if start else 0.0


def job_lease(job: Document, view: CellView) -> str:
    """When the first of its live leases ends."""
    ends = [p["status"]["expiresAt"] for p in view.owned_by(job) if lookup(p, "status.phase") in ("Active", "Parked")]
    return f"in {until(min(ends), view.now)}" if ends else ""


def job_checkpoint(job: Document, view: CellView) -> str:
    """The step of its newest checkpoint, and how old that is."""
    saved = lookup(job, "status.checkpoint")
    return f"step {saved['step']}, {age(saved['time'], view.now)} ago" if saved else ""


def unsaved(job: Document, now: datetime) -> str:
    """What would be lost if what runs ended now: the time since the last checkpoint. "" where nothing runs, or where
    the job keeps none."""
    attempt = running_attempt(job)
    if attempt is None or lookup(job, "spec.checkpoint") is None:
        return ""
    began = attempt["startTime"]
    saved = (lookup(job, "status.checkpoint") or {}).get("time") or ""
    if saved > began:
        return f"{age(saved, now)} of work, since the last checkpoint"
    return f"{age(began, now)} of work, since its start: nothing is seen to be saved in this attempt"


def sections(job: Document, around: Surroundings) -> Iterator[Section]:
    now = around.now
    yield Fields([*_status(job, now), *_files(job, around.files, now)])
    yield Fields(_spec(job), "Spec")
    if after := lookup(job, "status.after"):
        yield Rows("After", ("JOB", "MUST HAVE", "STATE"), [[a["name"], a["wants"], a["state"]] for a in after])
    headings = ("NUMBER", "NODE", "STARTED", "LASTED", "EXIT", "REASON", "MESSAGE")
    if runs := lookup(job, "status.earlierRuns"):
        titles = ("RUN", "ATTEMPTS", "STARTED", "ENDED", "REASON", "LOG")
        yield Rows("Earlier runs", titles, [_run(run, now) for run in runs])
    yield Rows("Attempts", headings, [_attempt(a, now) for a in lookup(job, "status.attempts") or ()])


def _status(job: Document, now: datetime) -> Iterator[tuple[str, Value]]:
    status = job.get("status") or {}
    yield "Phase", status.get("phase", "Pending")
    yield "Values", array_values.of_job(job)
    yield "Run", str(status["run"]) if status.get("run", 1) > 1 else ""
    yield "Started", moment(status.get("startTime"), now)
    yield "Completed", moment(status.get("completionTime"), now)
    if saved := status.get("checkpoint"):
        took, size = f"{saved.get('seconds', 0):.1f} s", bytes_in_words(saved.get("size", 0))
        yield "Checkpoint", f"step {saved['step']}, saved {moment(saved['time'], now)}, {size} in {took}"
        yield "Saved at", f"{saved.get('node')}:{saved.get('path')}"
        yield "Copied to", _copied(saved)
    yield "Brought ahead", prefetched(job)
    yield "Would be lost", unsaved(job, now)
    if following := status.get("next"):
        yield "Next attempt", f"{following.get('number')}, queued {moment(following.get('queueTime'), now)}"
    failures = status.get("failures") or 0
    yield from _call_status(status.get("call") or {})
    yield "Failures", f"{failures}, of which {lookup(job, 'spec.retry.limit') or 0} are tried again" if failures else ""


def prefetched(job: Document) -> str:
    """How far its checkpoint is on its way to where it runs next; "" where none is brought there."""
    found = lookup(job, "status.prefetch")
    if not found:
        return ""
    step, nodes = found.get("step"), ", ".join(found.get("nodes") or ())
    if found.get("state") == "Arrived":
        return f"step {step} is on {nodes}" if step is not None else f"{nodes} needs nothing"
    if found.get("state") == "Failed":
        return f"not to {nodes}: {found.get('message')}; the start tries it again"
    return f"on its way to {nodes}"


def _copied(saved: Document) -> str:
    """How far its checkpoints are beyond the node; "" where they are kept nowhere else."""
    if not saved.get("uri"):
        return ""
    step, error = saved.get("uploadedStep"), saved.get("uploadError")
    state = "nothing yet" if step is None else f"step {step}"
    return f"{saved['uri']}: {state}{f'; {error}' if error else ''}"


def call_outcome(call: Document) -> str:
    """What came of a call, from `status.call`: `Raised, builtins.ValueError: no row`; "" where it is not over."""
    said = ": ".join(part for part in (call.get("type"), call.get("text")) if part)
    return f"{call['outcome']}, {said}" if call.get("outcome") and said else str(call.get("outcome") or "")


def _call_status(call: Document) -> Iterator[tuple[str, Value]]:
    if not call.get("outcome"):
        return
    yield "Outcome", call_outcome(call)
    if call.get("result"):
        yield "Result", f"{call['result']} ({call.get('resultSize', 0)} bytes)"


def _files(job: Document, files: Files | None, now: datetime) -> Iterator[tuple[str, Value]]:
    """The directories that were made for its attempts, and when they go."""
    if files is None or not files.working_directories:
        return
    places = files.working_directories
    shown = list(places[-_DIRECTORIES:])
    if len(places) > len(shown):
        shown.insert(0, f"{len(places) - len(shown)} earlier ones in {files.directory}")
    ttl, completed = lookup(job, "spec.ttlAfterFinished"), lookup(job, "status.completionTime")
    when = "with the job, when it is deleted"
    if ttl and completed:
        end = timestamp(parse_timestamp(completed) + timedelta(seconds=parse_duration(ttl)))
        when = f"with the job, at {to_the_second(end)} (in {until(end, now)})"
    elif ttl:
        when = f"with the job, {ttl} after it finished, or when it is deleted"
    yield "Directories", "\n".join(shown)
    yield "Files go", when


def _spec(job: Document) -> list[tuple[str, Value]]:
    """The spec as set, with the command on one line."""
    spec = dict(job.get("spec") or {})
    command, args = job_command(spec)
    command = [*command, *args]
    for name in ("command", "args"):
        spec.pop(name, None)
    env = spec.pop("env", None) or ()
    mounts = spec.pop("mounts", None) or ()
    ports = spec.pop("ports", None) or ()
    user = spec.pop("runAsUser", None)
    fields: list[tuple[str, Value]] = [("Command", _command(command))] if command else []
    fields += flat(spec)
    # Also 0, which `flat` leaves out.
    fields += [("Run as user", str(user))] if user is not None else []
    fields += [("Ports", ", ".join(f"{p['hostPort']} to {p['containerPort']}" for p in ports))] if ports else []
    fields += [("Env", tuple(_env(e) for e in env))] if env else []
    if mounts:
        shown = (f"{m['source']} at {m['target']}{' (read only)' if m.get('readOnly') else ''}" for m in mounts)
        fields.append(("Mounts", tuple(shown)))
    return fields


def _command(words: Iterable[str]) -> str:
    """As a shell would take it; a script in several lines by its length alone."""
    import shlex

    counted = ((word, len(word.strip().splitlines())) for word in words)
    return " ".join(shlex.quote(word) if lines <= 1 else f"<script of {lines} lines>" for word, lines in counted)


def _env(env: Document) -> str:
    reference = lookup(env, "valueFrom.secretKeyRef")
    if reference:
        return f"{env['name']} from secret {reference.get('name')}, key {reference.get('key')}"
    return f"{env['name']}={env.get('value', '')}"


def _attempt(attempt: Document, now: datetime) -> list[str]:
    start, end = attempt.get("startTime"), attempt.get("endTime")
    nodes = list(dict.fromkeys(attempt.get("nodes") or [attempt.get("node", "")]))
    lasted = age(start, parse_timestamp(end) if end else now) if start else NOTHING
    code = attempt.get("exitCode")
    return [
        str(attempt.get("number", "?")),
        ",".join(nodes) or NOTHING,
        f"{age(start, now)} ago" if start else NOTHING,
        lasted,
        NOTHING if code is None else str(code),
        attempt.get("reason") or NOTHING,
        attempt.get("message", ""),
    ]


def _run(run: Document, now: datetime) -> list[str]:
    start, end = run.get("startTime"), run.get("completionTime")
    attempts = run.get("attempts") or [{}]
    return [
        str(run.get("number", "?")),
        str(attempts[-1].get("number", 0)),
        f"{age(start, now)} ago" if start else NOTHING,
        f"{age(end, now)} ago" if end else NOTHING,
        attempts[-1].get("reason") or NOTHING,
        "deleted" if run.get("purged") else "kept",
    ]


_REASON_OF_PHASE = {
    "Pending": (JobCondition.SCHEDULED, JobCondition.PARTITIONS_READY, JobCondition.RUNNING),
    "Scheduled": (JobCondition.PARTITIONS_READY, JobCondition.RUNNING),
    "Running": (JobCondition.RUNNING,),
    "Checkpointing": (JobCondition.RUNNING,),
    "Suspended": (JobCondition.SUSPENDED,),
    "Parked": (JobCondition.PARKED,),
    "Succeeded": (JobCondition.SUCCEEDED,),
    "Failed": (JobCondition.FAILED,),
}


def job_blobs(job: Document) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Of its call."""
    for name in ("payload", "archive", "environment"):
        if sha256 := lookup(job, f"spec.call.{name}"):
            yield ("spec", "call", name), str(sha256)
    arguments = lookup(job, "spec.call.arguments")
    for at, sha256 in enumerate(arguments if isinstance(arguments, list) else ()):
        yield ("spec", "call", "arguments", at), str(sha256)


KIND = Kind(
    "GPUJob",
    "gpujobs",
    ("jobs", "job", "gj"),
    True,
    "cumulus.resources.job",
    (
        Column("PHASE", "status.phase", fit="whole", yields=0),
        Column("NODE", cell=lambda job, _: job_node(job), yields=2),
        Column("GPU", cell=lambda job, _: job_gpu(job), yields=4),
        Column("ATTEMPTS", cell=lambda job, _: job_attempts(job), yields=5),
        Column("LEASE ENDS", cell=job_lease, wide=True, fit="whole", yields=1),
        Column("CHECKPOINT", cell=job_checkpoint, wide=True, yields=4),
        Column("IMAGE", "spec.image", wide=True, yields=6),
        Column("VALUES", cell=lambda job, _: array_values.of_job(job), wide=True, yields=7),
        Column("REASON", cell=lambda job, _: job_reason(job), wide=True, fit="whole", yields=0),
        Column("AGE", "metadata.creationTimestamp", form="age", fit="whole", yields=3),
    ),
    writers=Role.USER,
    work=True,
    owns=_OWNS,
    noun="job",
    runs=True,
    waits=True,
    related=Related("Partitions", lambda job: Query(_OWNS, owner_uid=job["metadata"]["uid"])),
    sections=sections,
    leaves_files=True,
    sealed=frozenset({"status.run", "status.earlierRuns", "status.promise"}),
    takes_over=frozenset({JOB_FINALIZER}),
    successor=reruns.successor,
    blobs=job_blobs,
    lost_gpu_hours=lost_gpu_hours,
    conditions=tuple(JobCondition),
    final_phases=FINAL_PHASES,
    failed_phases=frozenset({"Failed"}),
    phase_rests_on=((JobCondition.SCHEDULED, False), (JobCondition.PARTITIONS_READY, False)),
)
