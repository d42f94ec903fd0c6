"""What is said in one place is said so everywhere: environment variables, the Python that is needed, kinds, reasons."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from pathlib import Path

from cumulus import environment
from cumulus.resources import reasons
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.partition import PartitionPhase
from cumulus.resources.registry import KINDS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cumulus"

OWN_PROCESS = {
    "paths.py", "backends/process/forked.py", "backends/process/supervisor.py", "backends/process/uploading.py",
    "cli/main.py",
    "cli/command_client.py", "cli/command_server.py",
    "checkpoint/settings.py", "environments/builder.py", "infrastructure/local.py", "health/tools.py",
    "server/settings.py", "server/daemon.py", "client/endpoint.py",
    "runner/failure.py", "sdk/endpoint.py", "sdk/remote_function.py",
}  # fmt: skip
"""What begins a process and reads its environment, or hands it on."""
PROTOCOLS = {"cli/raw_terminal.py", "cli/verbs/ui.py", "lib/safe_output.py", "lib/systemd.py", "sdk/quiet_grpc.py"}
"""What implements a convention of others: NO_COLOR, TERM and COLUMNS, DISPLAY, SSH_CONNECTION, NOTIFY_SOCKET,
GRPC_VERBOSITY."""
STARTERS = {
    "cli/verbs/edit_object.py",
    "cli/verbs/rerun.py",
    "cli/this_shell.py",
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


ONE_THING = {
    "Call": "what a job calls: the field of its spec, and what user code holds of it",
    "Checkpoint": "where a job keeps its work: the field of its spec, and what user code finds there",
    "CumulusCheckpoint": "the same callback for each framework, which a program imports from its adapter",
    "Gang": "the field of a partition's spec that names its gang, and the gang as placement sees it",
    "Lease": "a GPU share in Chronos, which knows no kind; and the kind, in Kubernetes' word, which says who leads",
    "UnleasedProcess": "the same record as the node's wire has it and as a status has it",
}
"""Names of several public classes, which a reader cannot mix up. It only gets shorter."""


def test_a_public_class_has_a_name_of_its_own() -> None:
    """So has a public alias of a type (`Place = tuple[str, int]`). What is private or within another class is its
    module's own matter, and so are the options of a verb."""
    homes: dict[str, set[str]] = {}
    for package in (PACKAGE, ROOT / "cumulus_core", ROOT / "sdk"):
        for path in package.rglob("*.py"):
            # Generated from proto/, with the names of the messages.
            if path.is_relative_to(PACKAGE / "rpc"):
                continue
            for node in _tree(path).body:
                name = node.name if isinstance(node, ast.ClassDef) else _alias(node)
                if name and not name.startswith("_"):
                    homes.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    several = {name: paths for name, paths in homes.items() if len(paths) > 1}
    assert {name: paths for name, paths in several.items() if name not in ONE_THING} == {}
    assert set(ONE_THING) == set(several)


def _alias(node: ast.stmt) -> str:
    """The name that a module gives to a type; "" for any other statement."""
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name):
            return "" if re.search(r"\b(typer\.|TypeVar\()", ast.unparse(value)) else name
    return ""


SPELL_A_KIND = {
    "answers/history.py": "kinds of spans of a timeline, in words that it shares",
    "history/spans.py": "the same",
    "history/timeline.py": "the same",
    "resources/awaited_jobs.py": "models use it, and the registry's entries look at the clock",
    "sdk/options.py": "user code imports it, without the registry",
    "server/http/kubernetes/core/events.py": "Kubernetes' kind, of its core group",
    "server/http/kubernetes/groups.py": "the same",
    "server/http/ui/nodes.py": "what the page is told of",
    "server/http/ui/users.py": "the same",
}
SWITCHES = {"resources/awaited_jobs.py": "what jobs and arrays wait for: the two kinds' own rule of names"}


def test_no_kind_is_matched_by_its_name() -> None:
    """What a kind is or does is a field of its `Kind`, which others ask."""
    found = {str(path.relative_to(PACKAGE)) for path in _naming_kinds() if _matches_a_kind(_tree(path))}
    assert found == set(SWITCHES)


def test_kinds_are_spelt_in_their_own_modules_alone() -> None:
    own = {PACKAGE / f"{kind.module.removeprefix('cumulus.').replace('.', '/')}.py" for kind in KINDS}
    found = {
        str(path.relative_to(PACKAGE))
        for path in _naming_kinds()
        if path not in own and any(_spelt(_tree(path), {kind.name for kind in KINDS} - {"Source"}))
    }
    assert found == set(SPELL_A_KIND)


def _naming_kinds() -> Iterator[Path]:
    """Files beside the registry's entries that may name a kind: to take them all apart takes long."""
    named = re.compile("|".join(["KIND", *(kind.name for kind in KINDS)]))
    for path in PACKAGE.rglob("*.py"):
        if not path.is_relative_to(PACKAGE / "resources" / "kinds") and named.search(path.read_text()):
            yield path


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


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
        if (words := sorted(_spelt(_tree(path), known)))
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


PUTS_IN_PLACE = {
    "backends/process/backend.py": "directories of runs",
    "backends/process/takeover.py": "directories of checkpoints, with `checkpoint`'s layout",
    "backends/rundir/log.py": "a log that is appended to",
    "blob/directory.py": "what came of a blob stays, and the rest is sent later",
    "cli/archives.py": "a file with the mode that the archive says, or a directory",
    "cli/carried.py": "the user's own files, with their modes and times",
    "cli/command_server.py": "a socket",
    "cli/verbs/checkpoints.py": "a directory",
    "environments/cache.py": "directories; runs alone on a node",
    "health/control_plane.py": "measures the disk",
    "history/schema.py": "a damaged database goes aside",
    "lib/files.py": "files",
    "lib/unix_socket.py": "sockets",
    "nodes/host_keys.py": "a file that is appended to",
    "runner/build.py": "several threads put the same file there at once",
    "runner/main.py": "runs alone in any image",
    "server/log_file.py": "a log goes aside",
    "store/backup.py": "a database with its log",
    "uploader/__main__.py": "a note in a file that is open",
    "uploader/directory_place.py": "what came of a file stays, and the rest is sent later",
    "uploader/files.py": "directories of checkpoints, with `checkpoint`'s layout",
    "uploader/restore.py": "files of such a directory",
}
"""Beside `chronos` and `checkpoint`, which stand alone. All others write by `lib.files`."""
READS_PROC = {
    "cli/command_client.py": "in which namespaces it is, before anything else is loaded",
    "environments/cache.py": "runs alone on a node",
    "sdk/transport.py": "a path that is short enough for a socket",
    "service/accounts.py": "a setting of the kernel",
    "backends/process/command.py": "counters of the kernel",
    "backends/process/launch.py": "its own setting",
    "backends/process/process_tree.py": "whether a number is taken, whoever may see what has it",
    "backends/swarm/node_engine.py": "a script that runs on a node",
}
"""Beside `lib`, and `chronos`, which asks about namespaces, mounts and drivers. What all others want to know of a
process they ask `lib.processes`."""


def test_files_are_put_in_place_in_one_place() -> None:
    wanted = re.compile(r"os\.(replace|rename|fsync|fdatasync)\(|\.rename\(")
    assert _where(wanted, without=("chronos", "checkpoint")) == set(PUTS_IN_PLACE)


def test_processes_are_looked_at_in_one_place() -> None:
    wanted = re.compile(r"""f?["'](?:[^"'\n]* )?/proc/""")
    assert _where(wanted, without=("chronos", "lib")) == set(READS_PROC)


def test_chronos_asks_the_same_place_about_a_process() -> None:
    """Its status, its environment and its children; `runtime` runs alone, as a container's."""
    wanted = re.compile(r"/proc/\{\w+\}/(stat|status|environ|comm|task)\b")
    assert _where(wanted, without=("lib",)) == set()


def _where(wanted: re.Pattern[str], *, without: tuple[str, ...]) -> set[str]:
    """In which modules, but for those of some rooms, there is such code."""
    return {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in without and wanted.search(path.read_text())
    }
