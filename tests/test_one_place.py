"""What is said in one place is said so everywhere: environment variables, the Python that is needed, kinds, reasons."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from cumulus import environment
from cumulus.resources import reasons
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.partition import PartitionPhase
from cumulus.resources.registry import KINDS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cumulus"

OWN_PROCESS = {
    "paths.py", "backends/process/fork_server.py", "backends/process/supervisor.py", "backends/process/uploading.py",
    "cli/main.py",
    "cli/command_client.py", "cli/command_server.py",
    "checkpoint/settings.py", "environments/builder.py", "infrastructure/local.py", "health/tools.py",
    "server/settings.py", "server/daemon.py", "client/endpoint.py",
    "runner/failure.py", "sdk/endpoint.py", "sdk/remote_function.py",
}  # fmt: skip
"""What begins a process and reads its environment, or hands it on."""
PROTOCOLS = {"cli/raw_terminal.py", "cli/verbs/ui.py", "lib/safe_output.py", "lib/systemd.py"}
"""What implements a convention of others: NO_COLOR, TERM and COLUMNS, DISPLAY, SSH_CONNECTION, NOTIFY_SOCKET."""
STARTERS = {
    "cli/verbs/edit_object.py",
    "cli/verbs/rerun.py",
    "cli/verbs/run.py",
    "environments/ensure.py",
    "environments/lock.py",
    "lib/cgroup.py",
    "nodes/distribution.py",
}
"""What starts a program that gets this process's own."""


def test_nothing_below_reads_the_environment() -> None:
    readers = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] != "chronos" and re.search(r"os\.(environ|getenv)", path.read_text())
    }
    assert readers == OWN_PROCESS | PROTOCOLS | STARTERS


CHRONOS_READERS = {
    "settings.py": "what is Chronos' own",
    "contract/variables.py": "whether an OpenCL loader was told its drivers",
    "device.py": "hands it to the probe",
    "enforce/hook/sitecustomize.py": "runs in a job's own Python, alone",
    "enforce/loader.py": "PATH, for ldconfig",
    "enforce/mps_daemon.py": "hands on what an MPS daemon needs; the directory for sockets",
    "lease_args.py": "who called sudo",
    "monitor_control.py": "hands it to the monitor; whether it runs inside a lease",
    "parking/self_test.py": "hands it to the programs that it parks",
    "runtime.py": "runs alone, as a container runtime",
    "verbs.py": "becomes the program that `exec` runs",
}


def test_chronos_reads_its_settings_in_one_place() -> None:
    chronos = PACKAGE / "chronos"
    readers = {
        str(path.relative_to(chronos))
        for path in chronos.rglob("*.py")
        if re.search(r"os\.(environ|getenv)", path.read_text())
    }
    assert readers == set(CHRONOS_READERS)


def test_variables_are_named_in_one_place() -> None:
    names = {value for name, value in vars(environment).items() if name.isupper()}
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] not in ("chronos", "environment.py"):
            for literal in re.findall(r"environ(?:\.get\(|\[)\"([A-Z_]+)\"", path.read_text()):
                assert literal not in names, f"{path} names {literal}"


def test_the_scripts_need_the_python_that_the_package_needs() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    least = tuple(map(int, wanted.removeprefix(">=").split(".")))
    scripts = [*(ROOT / "scripts").iterdir(), *(PACKAGE / "nodes" / "worker").iterdir()]
    pattern = re.compile(r"version_info (?:<|>=) \((\d+), (\d+)\)")
    found = {
        path.name: {(int(major), int(minor)) for major, minor in pattern.findall(path.read_text())}
        for path in scripts
        if path.is_file()
    }
    said = {name: versions for name, versions in found.items() if versions}
    assert {"_python.sh", "setup-worker.sh", "join-swarm.sh", "chronos-runtime"} <= set(said)
    assert all(versions == {least} for versions in said.values()), said


KINDLESS = (
    "admission", "apply", "backends", "cli", "client", "gitops", "health", "history", "infrastructure", "machinery",
    "manifest", "nodes", "scheduling", "server", "service", "store",
)  # fmt: skip
"""Rooms that ask a kind's entry and never look at its name."""
SWITCHES = {
    "cli/targets.py": "for verbs that are for jobs alone",
    "cli/verbs/checkpoints.py": "for jobs alone",
    "cli/verbs/logs.py": "for jobs alone",
    "history/recorder.py": "remembers leases: partitions, nodes and reservations, each in its own way",
    "scheduling/claim.py": "a partition that a job owns, or a person",
    "server/http/ui/changes.py": "the leader's Lease beats each second, and no page shows it",
    "server/metrics/starts.py": "how long jobs wait for their start: no other kind starts",
    "service/access/guard.py": "Queues form trees, which takes the other Queues: admission sees one object",
    "service/live_shares.py": "what leases hold now, of the three kinds that history remembers",
    "service/submissions.py": "submits jobs alone",
    "service/why.py": "explains jobs and partitions, the two kinds that wait, each in its own sentences",
}


def test_no_kind_is_matched_by_its_name() -> None:
    found = {
        str(path.relative_to(PACKAGE))
        for room in KINDLESS
        for path in (PACKAGE / room).rglob("*.py")
        if _matches_a_kind(ast.parse(path.read_text()))
    }
    assert found == set(SWITCHES)


def _matches_a_kind(tree: ast.Module) -> bool:
    # Docker's word for where a mount comes from is also a kind.
    kinds = {kind.name for kind in KINDS} - {"Source"}
    entries = {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "cumulus.resources.kinds"
        for name in node.names
    }
    constants: set[str] = set()

    def names_a_kind(node: ast.AST) -> bool:
        match node:
            case ast.Constant(value=str(value)):
                return value in kinds
            case ast.Name(id=name):
                return name in constants
            case ast.Attribute(value=ast.Name(id=holder), attr="KIND"):
                return holder in kinds | entries
        return False

    for assigned in tree.body:
        if isinstance(assigned, ast.Assign) and any(map(names_a_kind, ast.walk(assigned.value))):
            constants |= {part.id for t in assigned.targets for part in ast.walk(t) if isinstance(part, ast.Name)}
    for node in ast.walk(tree):
        match node:
            case ast.Compare(left=left, comparators=others):
                asked = [part for side in (left, *others) for part in ast.walk(side)]
            case ast.Dict(keys=keys):
                asked = [key for key in keys if key is not None]
            case ast.MatchValue(value=value):
                asked = [value]
            case _:
                continue
        if any(map(names_a_kind, asked)):
            return True
    return False


PHASES = {*JobPhase, *PartitionPhase, "Starting", "Ending", "Ended"}
"""Phases and states of other enums, which have words in common with reasons: these are looked at only where a
condition, a reason or an event is named."""
SAYS_A_REASON = {"condition", "condition_set", "is_true", "by_condition", "record", "event", "Health", "Cause"}
OTHER_WORDS = {
    "answers/history.py": "kinds of spans of a timeline",
    "history/spans.py": "the same",
    "history/timeline.py": "the same",
    "calls/outcome.py": "what came of a call, in words that it shares; goes alone into any image",
    "blob/s3/problems.py": "a field of what S3 answers",
    "lib/table.py": "colours words of all sorts",
    "resources/condition_types.py": "one of the two places",
    "resources/reasons.py": "the other",
    "resources/kinds/gpujob.py": "titles of fields: Started, Completed",
    "resources/kinds/gpujobarray.py": "titles of fields: Waiting, Completed",
    "resources/kinds/gpunode.py": "the status of a node as kubectl words it",
    "resources/kinds/source.py": "titles of fields: Synced, Error",
    "resources/source.py": "enums of what became of a sync and of an object",
    "server/http/kubernetes/core/pods.py": "a pod's conditions, in Kubernetes' words",
    "scheduling/explain.py": "an enum of what becomes of a gang",
}


def test_condition_types_and_reasons_are_spelt_in_their_enums_alone() -> None:
    enums = [e for e in vars(reasons).values() if isinstance(e, type) and issubclass(e, StrEnum) and e is not StrEnum]
    known = {str(word) for enum in enums for word in enum}
    spelt = {
        str(path.relative_to(PACKAGE)): words
        for path in PACKAGE.rglob("*.py")
        if (words := sorted(_spelt(ast.parse(path.read_text()), known)))
    }
    assert {path: words for path, words in spelt.items() if path not in OTHER_WORDS} == {}
    assert set(OTHER_WORDS) <= set(spelt)


def _spelt(tree: ast.Module, known: set[str]) -> Iterator[str]:
    exported = {
        id(part)
        for node in tree.body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
        for part in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            words = [part for part in node.args if called in SAYS_A_REASON]
        elif isinstance(node, ast.Compare) and "reason" in ast.unparse(node.left):
            words = [part for other in node.comparators for part in ast.walk(other) if isinstance(part, ast.expr)]
        else:
            words = []
        yield from (w.value for w in words if isinstance(w, ast.Constant) and w.value in known & PHASES)
        if isinstance(node, ast.Constant) and node.value in known - PHASES and id(node) not in exported:
            yield str(node.value)
