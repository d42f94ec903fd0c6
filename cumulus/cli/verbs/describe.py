"""`cumulus describe`: all about an object in sections for people, its events at the end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TextIO

from cumulus.cli import context, options, targets, terminal
from cumulus.cli.context import Freshness
from cumulus.cli.left_out import LeftOut
from cumulus.cli.targets import Selection
from cumulus.clock import SystemClock, parse_timestamp, timestamp, to_the_second
from cumulus.errors import InvalidObject, NotFound
from cumulus.lib import printable, safe_output
from cumulus.lib.table import Heading, Table
from cumulus.resources.columns import NOTHING, Cells, age, percent, text, until
from cumulus.resources.documents import MALFORMED, lookup, owners
from cumulus.resources.key import Document, key_of
from cumulus.resources.kinds.gpunode import devices
from cumulus.resources.quantity import format_bytes, parse_duration
from cumulus.resources.registry import BY_NAME

if TYPE_CHECKING:
    from cumulus.client.base import Description, JobFiles

LAST_APPLIED = "cumulus.dev/last-applied-configuration"
Rows = Sequence[Sequence[str]]
_DIRECTORIES = 8
"""Shown of a job at most: the latest."""
_WHOLE = frozenset({"NAME", "REASON", "LEASE"})
"""Columns whose words are never broken."""
_MOST, _MOST_LINES = 4000, 200
"""Characters of one value that are shown, and values of a list."""


def describe(
    words: options.Words = None,
    selector: options.Labels = "",
    namespace: options.Namespace = "default",
    all_namespaces: options.AllNamespaces = False,
) -> int:
    """Show everything about an object: its spec, its status, the reasons, and what happened.

    \b
    Examples:
      cumulus describe job train
      cumulus describe job/train node/gpu-3
      cumulus describe parts -l cumulus.dev/job=train
    """
    selection = Selection(None if all_namespaces else namespace, selector)
    code = shown = 0
    with context.client() as client:
        left_out = LeftOut(client)
        for target in targets.parse(words or ()):
            try:
                for document in targets.documents(client, target, selection):
                    if shown:
                        safe_output.block(sys.stdout, f"\n{'-' * 40}\n\n")
                    shown += 1
                    try:
                        described = client.describe(key_of(document))
                        DescriptionPrinter(described, SystemClock().now(), sys.stdout).write()
                        left_out.add(*described.damaged)
                        code = 1 if described.incomplete else code
                    except (InvalidObject, *MALFORMED) as error:
                        left_out.blame(error, document)
                        code = 1
            except NotFound as error:
                terminal.error(error)
                code = 1
        left_out.tell()
        if shown:
            Freshness(client).look()
    if not shown and code == 0:
        terminal.note("No resources found.")
    return code


class DescriptionPrinter:
    """Writes one object."""

    def __init__(self, described: Description, now: datetime, out: TextIO) -> None:
        self._described = described
        self._document = described.document
        self._now = now
        self._out = out

    def write(self) -> None:
        document = self._document
        self._fields(_metadata(document, self._now))
        sections = {"GPUJob": self._job, "GPUPartition": self._partition, "GPUNode": self._node}
        section = sections.get(document["kind"])
        if section is not None:
            section()
        elif document["kind"] == "Event":
            self._fields([(n, str(document[n])) for n in ("type", "reason", "message", "count") if n in document])
        else:
            self._fields([(_title(name), text(value)) for name, value in (document.get("spec") or {}).items()])
        self._conditions()
        self._waiting()
        self._events()

    def _job(self) -> None:
        job = self._document
        self._fields([*_job_status(job, self._now), *_job_files(job, self._described.files, self._now)])
        self._fields(_job_spec(job), "Spec")
        attempts = [_attempt_row(a, self._now) for a in lookup(job, "status.attempts") or ()]
        self._table("Attempts", ("NUMBER", "NODE", "STARTED", "LASTED", "EXIT", "REASON", "MESSAGE"), attempts)
        self._partitions()

    def _partition(self) -> None:
        partition = self._document
        status = partition.get("status") or {}
        expires = status.get("expiresAt")
        self._fields(
            [
                ("Phase", status.get("phase", "Pending")),
                ("Node", status.get("node", "")),
                ("Device", _device_text(status)),
                ("Memory", format_bytes(status["memoryBytes"]) if status.get("memoryBytes") else ""),
                ("Compute", percent(status["compute"]) if status.get("compute") else ""),
                ("Enforcement", status.get("enforcement", "")),
                ("Partition ID", status.get("partitionId", "")),
                ("Fencing token", str(status.get("fencingToken") or "")),
                ("Active since", _moment(status.get("activatedAt"), self._now)),
                (
                    "Ends",
                    f"{to_the_second(expires)} (in {until(expires, self._now)})"
                    if expires and _runs(status)
                    else to_the_second(expires or ""),
                ),
                ("Ended", _moment(status.get("endedAt"), self._now)),
            ]
        )
        self._fields(_flat(partition.get("spec") or {}), "Spec")

    def _node(self) -> None:
        node = self._document
        status = node.get("status") or {}
        self._fields(
            [
                ("Hostname", status.get("hostname", "")),
                ("Schedulable", "no, it is cordoned" if lookup(node, "spec.unschedulable") else "yes"),
                ("Runtimes", text(status.get("runtimes") or [])),
                ("Heartbeat", _moment(status.get("heartbeatTime"), self._now)),
                ("Boot ID", status.get("bootId", "")),
                ("Chronos", status.get("chronosVersion", "")),
            ]
        )
        headings = (
            "DEVICE", "NAME", Heading("VENDOR", yields=2), "TYPE", "MEMORY", "FREE", "FREE COMPUTE", "ENFORCEMENT",
            Heading("DRIVER", yields=1),
        )  # fmt: skip
        self._table("Devices", headings, [_device_row(d) for d in devices(node)])
        foreign = [
            [str(d["index"]), lease["partitionId"], lease.get("user") or NOTHING, format_bytes(lease["memoryBytes"]),
             percent(lease["compute"]), until(lease["expiresAt"], self._now)]
            for d in devices(node)
            for lease in d.get("foreignLeases") or ()
        ]  # fmt: skip
        if foreign:
            columns = ("DEVICE", "LEASE", "USER", "MEMORY", "COMPUTE", "ENDS IN")
            self._table("Leases made on the node itself", columns, foreign)
        self._partitions()

    def _waiting(self) -> None:
        if self._described.waiting:
            safe_output.line(self._out, "Waiting:")
            for line in self._described.waiting:
                safe_output.line(self._out, f"  {line}")

    def _conditions(self) -> None:
        conditions = lookup(self._document, "status.conditions") or ()
        rows = [_condition_row(c, self._now) for c in conditions]
        if rows:
            self._table("Conditions", ("TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"), rows)

    def _events(self) -> None:
        if not BY_NAME[self._document["kind"]].tells:
            return
        rows = [_event_row(e, self._now) for e in self._described.events]
        self._table("Events", ("LAST SEEN", "COUNT", "TYPE", "REASON", "MESSAGE"), rows)

    def _partitions(self) -> None:
        """The table that `get` would show."""
        kind = BY_NAME["GPUPartition"]
        columns = [c for c in kind.columns if not c.wide]
        find = Cells(self._now)
        rows = [[d["metadata"]["name"], *find.row(columns, d)] for d in self._described.partitions]
        self._table("Partitions", ["NAME", *(Heading(c.title, c.fit, c.yields) for c in columns)], rows)

    def _fields(self, fields: Iterable[tuple[str, str]], title: str = "") -> None:
        shown = [(name, value) for name, value in fields if value]
        indent = "  " if title else ""
        if title and shown:
            safe_output.line(self._out, f"{title}:")
        width = max((len(name) for name, _ in shown), default=0) + 1
        width = max(width, 14)
        for name, value in shown:
            for number, line in enumerate(value.split("\n")):
                label = f"{name}:" if number == 0 else ""
                safe_output.line(self._out, f"{indent}{label:<{width}} {_short(line)}")

    def _table(self, title: str, headings: Sequence[Heading | str], rows: Rows) -> None:
        """Indented. A description is read to its end: what has no room in a line is broken into several, not cut."""
        if not rows:
            safe_output.line(self._out, f"{title}: none")
            return
        safe_output.line(self._out, f"{title}:")
        broken = [Heading(h, "whole" if h in _WHOLE else "wrap") if isinstance(h, str) else h for h in headings]
        Table(broken, self._out, indent="  ").write([[_short(cell) for cell in row] for row in rows])


def _metadata(document: Document, now: datetime) -> Iterator[tuple[str, str]]:
    metadata = document["metadata"]
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k != LAST_APPLIED}
    owned_by = [f"{o['kind'].lower()}/{o['name']}" for o in owners(document)]
    yield "Name", metadata["name"]
    yield "Namespace", metadata.get("namespace", "")
    yield "Labels", _listed(f"{k}={v}" for k, v in (metadata.get("labels") or {}).items())
    yield "Annotations", _listed(f"{k}={v}" for k, v in annotations.items())
    yield "UID", metadata.get("uid", "")
    yield "Created", _moment(metadata.get("creationTimestamp"), now)
    yield "Belongs to", ", ".join(owned_by)
    if metadata.get("deletionTimestamp"):
        held = text(metadata.get("finalizers") or [])
        yield "Deleting", f"{_moment(metadata['deletionTimestamp'], now)}{f', held by {held}' if held else ''}"


def _job_status(job: Document, now: datetime) -> Iterator[tuple[str, str]]:
    status = job.get("status") or {}
    yield "Phase", status.get("phase", "Pending")
    yield "Started", _moment(status.get("startTime"), now)
    yield "Completed", _moment(status.get("completionTime"), now)
    failures = status.get("failures") or 0
    yield "Failures", f"{failures}, of which {lookup(job, 'spec.retry.limit') or 0} are tried again" if failures else ""


def _job_files(job: Document, files: JobFiles | None, now: datetime) -> Iterator[tuple[str, str]]:
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


def _job_spec(job: Document) -> list[tuple[str, str]]:
    """The spec as set, with the command on one line."""
    spec = dict(job.get("spec") or {})
    command = [*(spec.pop("command", None) or ()), *(spec.pop("args", None) or ())]
    env = spec.pop("env", None) or ()
    mounts = spec.pop("mounts", None) or ()
    ports = spec.pop("ports", None) or ()
    user = spec.pop("runAsUser", None)
    fields = [("Command", " ".join(_word(word) for word in command))] if command else []
    fields += _flat(spec)
    # Also 0, which `_flat` leaves out.
    fields += [("Run as user", str(user))] if user is not None else []
    fields += [("Ports", ", ".join(f"{p['hostPort']} to {p['containerPort']}" for p in ports))] if ports else []
    fields += [("Env", _listed(_env(e) for e in env))] if env else []
    if mounts:
        shown = [f"{m['source']} at {m['target']}{' (read only)' if m.get('readOnly') else ''}" for m in mounts]
        fields.append(("Mounts", _listed(shown)))
    return fields


def _listed(items: Iterable[str]) -> str:
    """A line for each, whatever breaks it holds itself."""
    given = list(items)
    lines = [printable.one_line(_short(item)) for item in given[:_MOST_LINES]]
    more = [f"… and {len(given) - _MOST_LINES:,} more; all are in -o yaml"] if len(given) > _MOST_LINES else []
    return "\n".join([*lines, *more])


def _short(text: str) -> str:
    """As much of a text as a person looks at."""
    if len(text) <= _MOST:
        return text
    return f"{text[:_MOST]}… ({len(text):,} characters; all of it is in -o yaml)"


def _word(word: str) -> str:
    """As a shell would take it; a script in several lines by its length alone."""
    lines = word.strip().splitlines()
    return shlex.quote(word) if len(lines) <= 1 else f"<script of {len(lines)} lines>"


def _env(env: Document) -> str:
    reference = lookup(env, "valueFrom.secretKeyRef")
    if reference:
        return f"{env['name']} from secret {reference.get('name')}, key {reference.get('key')}"
    return f"{env['name']}={env.get('value', '')}"


def _flat(value: Document, prefix: str = "") -> list[tuple[str, str]]:
    """A spec as rows of dotted names, without what is empty."""
    rows: list[tuple[str, str]] = []
    for name, item in value.items():
        if isinstance(item, dict):
            rows += _flat(item, f"{prefix}{name}.")
        elif item not in (None, "", [], {}, False):
            rows.append((f"{prefix}{name}" if prefix else _title(name), text(item)))
    return rows


def _title(name: str) -> str:
    """minEnforcement -> Min enforcement."""
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in name)
    return words[:1].upper() + words[1:]


def _attempt_row(attempt: Document, now: datetime) -> list[str]:
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


def _device_row(device: Document) -> list[str]:
    return [
        str(device.get("index", "?")),
        device.get("name", ""),
        device.get("vendor") or NOTHING,
        device.get("type", ""),
        format_bytes(device.get("memoryBytes", 0)),
        format_bytes(device.get("freeMemoryBytes", 0)),
        percent(device.get("freeCompute", 0)),
        device.get("enforcement", ""),
        device.get("driver") or NOTHING,
    ]


def _device_text(status: Document) -> str:
    if status.get("device") is None:
        return ""
    name = status.get("deviceName")
    return f"{status['device']}, {name}" if name else str(status["device"])


def _runs(status: Document) -> bool:
    return bool(status.get("phase") == "Active")


def _moment(moment: str | None, now: datetime) -> str:
    return f"{to_the_second(moment)} ({age(moment, now)} ago)" if moment else ""


def _condition_row(found: Document, now: datetime) -> list[str]:
    moment = found.get("lastTransitionTime")
    since = age(moment, now) if moment else NOTHING
    return [found["type"], found["status"], found.get("reason") or NOTHING, since, found.get("message", "")]


def _event_row(event: Document, now: datetime) -> list[str]:
    seen = age(event["lastTimestamp"], now)
    return [seen, str(event.get("count", 1)), event["type"], event["reason"], event.get("message", "")]
