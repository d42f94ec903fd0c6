"""The GPUJob that `cumulus run` makes of a command line. Pure: what the shell has comes in as a `Shell`."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from cumulus.errors import UsageError
from cumulus.resources import index_ranges, quantity
from cumulus.resources.index_ranges import MOST_AT_ONCE
from cumulus.resources.key import API_VERSION, NAME_LETTERS, Document
from cumulus.resources.kinds.gpujob import KIND
from cumulus.resources.kinds.gpujobarray import KIND as ARRAY
from cumulus.resources.preemption import Preemptible

_WHOLE_DEVICE, _AN_HOUR = "100%", "1h"
"""The share and the lease of a command that names none."""

_USUAL_UMASK = 0o022
_DIGITS = 9
"""Of a number that is looked at: Python refuses thousands of them."""

_EXPORTED = frozenset((
    "PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CUDA_HOME",
    "CUDA_PATH", "LANG", "LANGUAGE", "TZ",
))  # fmt: skip
"""What finds programs and libraries, and how text and time are written; LC_… too."""
_THE_JOBS_OWN = frozenset((
    "HOME", "USER", "LOGNAME", "SHELL", "PWD", "OLDPWD", "SHLVL", "_", "CUDA_VISIBLE_DEVICES", "PYOPENCL_CTX",
))  # fmt: skip
"""What a job has of its own, or what is true of a shell alone; CUMULUS_… and CHRONOS_… too."""
_SECRET = re.compile("TOKEN|SECRET|PASSWORD|KEY|CREDENTIAL", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INTERPRETER = re.compile(r"python[0-9.]*|bash|sh|zsh|perl|ruby|julia|node|Rscript|torchrun")
_SCRIPT = re.compile(r"([^/]+)\.(?:py|sh|bash|zsh|pl|rb|jl|js|mjs|R|r)")
_MOST_OF_A_NAME = 57
"""With a hyphen and five letters it is a label's 63."""


class Shell(NamedTuple):
    """Where the command is typed."""

    directory: str
    variables: Mapping[str, str]
    umask: int = 0o022


class Wanted(NamedTuple):
    """What is asked for, as it was typed; empty is not given. `env`: all of `--env-file` and `-e`, in this order."""

    words: Sequence[str]
    gpu: str = ""
    compute: str = ""
    gpus: int = 1
    duration: str = ""
    name: str = ""
    replicas: int = 1
    image: str = ""
    env: Sequence[tuple[str, str]] = ()
    export: str = ""
    retry: int = 0
    checkpoint: str = ""
    queue: str = ""
    secrets: Sequence[Document] = ()
    """Entries of spec.env that name a secret."""
    cpus: str = ""
    memory: str = ""
    tty: bool = False
    after: Sequence[str] = ()
    idle: str = ""
    preemptible: str = ""
    stdin: bool = False
    sync: bool = False
    """The directory is carried to the node, as the program's input."""


class ArrayOptions(NamedTuple):
    """What an array is asked for over, as it was typed; empty is not given."""

    indexes: str = ""
    """INDEXES or INDEXES%AT-ONCE."""
    values: str = ""
    matrix: Sequence[str] = ()
    parallelism: str = ""


class MadeJob(NamedTuple):
    job: Document
    secret: tuple[str, ...]
    """Variables that were not exported, since their names look like secrets."""


def job_of(wanted: Wanted, shell: Shell, namespace: str, ending: str) -> MadeJob:
    """The job. `ending`: of the name, where none is given. Raises UsageError."""
    _check(wanted)
    variables, secret = ({}, ()) if wanted.image else exported(shell.variables, wanted.export)
    if wanted.tty and "TERM" in shell.variables:
        variables.setdefault("TERM", shell.variables["TERM"])
    variables.update(wanted.env)
    gpu: Document = {"memory": wanted.gpu or _WHOLE_DEVICE, "duration": wanted.duration or _AN_HOUR}
    gpu |= {"compute": wanted.compute} if wanted.compute else {}
    gpu |= {"count": wanted.gpus} if wanted.gpus > 1 else {}
    spec: Document = {"image": wanted.image} if wanted.image else {}
    spec |= {"command": list(wanted.words)} if wanted.words else {}
    if not wanted.image:
        if not wanted.sync:
            spec["workingDir"] = shell.directory
        if shell.umask != _USUAL_UMASK:
            spec["umask"] = f"{shell.umask:03o}"
    secrets = {str(each["name"]): each for each in wanted.secrets}
    plain = [{"name": name, "value": value} for name, value in sorted(variables.items()) if name not in secrets]
    if plain or secrets:
        spec["env"] = [*plain, *secrets.values()]
    spec["gpu"] = gpu
    host = {name: value for name, value in (("cpus", wanted.cpus), ("memory", wanted.memory)) if value}
    if host:
        spec["resources"] = host
    if wanted.replicas > 1:
        spec["replicas"] = wanted.replicas
    if wanted.tty:
        spec["tty"] = True
    elif wanted.stdin or wanted.sync:
        spec["stdin"] = True
    if wanted.idle:
        spec["idle"] = _idle(wanted.idle)
        if spec["idle"]["action"] == "Park":
            # A client of MPS can't be parked.
            gpu["sharing"] = "Parkable"
    if wanted.preemptible:
        spec["preemptible"] = _preemptible(wanted.preemptible)
    if wanted.queue:
        spec["queue"] = wanted.queue
    if wanted.after:
        spec["after"] = {"succeeded": list(wanted.after)}
    if wanted.retry:
        spec["retry"] = {"limit": wanted.retry}
    if wanted.checkpoint:
        path = wanted.checkpoint if wanted.image else posixpath.join(shell.directory, wanted.checkpoint)
        spec["checkpoint"] = {"path": posixpath.normpath(path)}
    name = wanted.name or f"{name_of(wanted.words or [wanted.image])}-{ending}"
    metadata = {"name": name, "namespace": namespace}
    return MadeJob({"apiVersion": API_VERSION, "kind": KIND.name, "metadata": metadata, "spec": spec}, secret)


def _idle(text: str) -> Document:
    """Of `20m`, or `20m:report`. Raises UsageError."""
    after, _, action = text.partition(":")
    word = (action or "park").capitalize()
    if word not in ("Park", "Release", "Report"):
        raise UsageError(f"--idle: {action!r} is no action", hint="write 20m:park, 20m:release or 20m:report")
    try:
        quantity.parse_duration(after)
    except ValueError as error:
        raise UsageError(f"--idle: {error}") from None
    return {"after": after, "action": word}


def _preemptible(text: str) -> str:
    """In the words of the spec. Raises UsageError."""
    for word in Preemptible:
        if text.lower() == word.lower():
            return word.value
    raise UsageError(f"--preemptible: {text[:40]!r} is neither Kill nor Checkpoint", hint="write --preemptible Kill")


def array_of(job: Document, wanted: ArrayOptions) -> Document:
    """The array of such jobs. Raises UsageError."""
    spec = {**_indexes(wanted), **_at_once(wanted)}
    metadata = {name: value for name, value in job["metadata"].items() if name != "annotations"}
    annotations = job["metadata"].get("annotations")
    template: Document = {"metadata": {"annotations": annotations}} if annotations else {}
    spec |= {"jobTemplate": {**template, "spec": job["spec"]}}
    return {**job, "kind": ARRAY.name, "metadata": metadata, "spec": spec}


def _indexes(wanted: ArrayOptions) -> Document:
    """The field of the spec that says what the indexes are. Raises UsageError."""
    indexes = wanted.indexes.partition("%")[0]
    given = {"--array": indexes, "--values": wanted.values, "--matrix": wanted.matrix}
    named = [option for option, value in given.items() if value]
    if len(named) != 1:
        if named:
            raise UsageError(f"{named[1]} cannot be given together with {named[0]}", hint="keep one of them")
        raise UsageError("say what the indexes are", hint="write --array 0-99, --values a,b or --matrix lr=0.1,0.01")
    if wanted.values:
        return {"values": wanted.values.split(",")}
    if wanted.matrix:
        return {"matrix": _matrix(wanted.matrix)}
    try:
        index_ranges.check(indexes)
    except ValueError as error:
        raise UsageError(f"--array: {error}") from None
    return {"indexes": indexes}


def _matrix(given: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in given:
        name, equals, values = text.partition("=")
        if not equals or not _NAME.fullmatch(name) or not values:
            raise UsageError(f"--matrix: {text[:40]!r} is not NAME=VALUE,VALUE", hint="write --matrix lr=0.1,0.01")
        if name in found:
            raise UsageError(f"--matrix: {name} is given a second time", hint=f"write --matrix {name}=VALUE,VALUE once")
        found[name] = values.split(",")
    return found


def _at_once(wanted: ArrayOptions) -> Document:
    """Raises UsageError."""
    _, percent, number = wanted.indexes.partition("%")
    if percent and wanted.parallelism:
        raise UsageError(f"--parallelism says again what --array {wanted.indexes[:40]} does", hint="keep one of them")
    option, number = ("--array", number) if percent else ("--parallelism", wanted.parallelism)
    if not percent and not number:
        return {}
    example = "write 0-99%8" if percent else "write --parallelism 8"
    if not (number.isascii() and number.isdecimal() and len(number) <= _DIGITS and int(number) > 0):
        raise UsageError(f"{option}: {number[:40]!r} is no number of jobs at once", hint=example)
    if int(number) > MOST_AT_ONCE:
        raise UsageError(f"{option}: at most {MOST_AT_ONCE} jobs at once, not {number}", hint=example)
    return {"parallelism": int(number)}


def name_of(words: Sequence[str]) -> str:
    """What a job is called after: its program, or the script that its interpreter runs."""
    program = posixpath.basename(words[0])
    named = words[1:] if _INTERPRETER.fullmatch(program) else words[:1]
    scripts = (_SCRIPT.fullmatch(posixpath.basename(word)) for word in named)
    program = next((found[1] for found in scripts if found), program)
    name = re.sub(r"[^a-z0-9]+", "-", program.lower()).strip("-")
    return name[:_MOST_OF_A_NAME].strip("-") or "job"


def random_ending() -> str:
    """What makes a name one of its own. Chosen here and not by metadata.generateName: so a dry run shows the very
    object, which `apply` takes, and who is interrupted while it is made knows what to look for."""
    return "".join(NAME_LETTERS[each % len(NAME_LETTERS)] for each in os.urandom(5))


def exported(variables: Mapping[str, str], export: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The variables of the shell that the job gets, and with ALL those that it does not get for their names. What no
    object can hold (exported functions, bytes that are no UTF-8) is left out."""
    if export == "NONE":
        return {}, ()
    possible = {n: v for n, v in variables.items() if _NAME.fullmatch(n) and _is_text(v)}
    if export != "ALL":
        return {n: v for n, v in possible.items() if n in _EXPORTED or n.startswith("LC_")}, ()
    wide = {n: v for n, v in possible.items() if n not in _THE_JOBS_OWN and not n.startswith(("CUMULUS_", "CHRONOS_"))}
    secret = tuple(sorted(name for name in wide if is_secret(name)))
    return {n: v for n, v in wide.items() if n not in secret}, secret


def is_secret(name: str) -> bool:
    """Whether a variable's name looks as if its value were one."""
    return _SECRET.search(name) is not None


def given(text: str, shell: Mapping[str, str], where: str) -> tuple[str, str]:
    """NAME=VALUE, or NAME for the shell's own value. Raises UsageError, with `where` it was written."""
    name, equals, value = text.partition("=")
    if not _NAME.fullmatch(name):
        raise UsageError(f"{where}: {text.partition('=')[0]!r} is no name of a variable", hint="write NAME=VALUE")
    if not equals and name not in shell:
        raise UsageError(f"{where}: {name} is not set in this shell", hint=f"write {name}=VALUE, or export it first")
    value = value if equals else shell[name]
    if not _is_text(value):
        raise UsageError(f"{where}: the value of {name} is not UTF-8 text")
    return name, value


def given_in(lines: Iterable[str], shell: Mapping[str, str], file: str) -> list[tuple[str, str]]:
    """The lines of an --env-file, as docker takes them: NAME=VALUE or NAME each, nothing is unquoted, and what begins
    with # is a comment. Raises UsageError, with the line."""
    numbered = [(number, line.rstrip("\r\n").lstrip()) for number, line in enumerate(lines, 1)]
    return [given(line, shell, f"{file}:{number}") for number, line in numbered if line and not line.startswith("#")]


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def _check(wanted: Wanted) -> None:
    """What can be told at once, in the words of the options. The server checks everything."""
    if wanted.sync and (wanted.image or wanted.stdin or wanted.tty or wanted.replicas > 1):
        other = "--image" if wanted.image else "--replicas" if wanted.replicas > 1 else "-i"
        raise UsageError(f"--sync does not go together with {other}",
                         hint="it is for one program without an image, whose input carries the directory")  # fmt: skip
    if wanted.sync and (wanted.retry or wanted.checkpoint):
        raise UsageError(f"--sync does not go together with {'--retry' if wanted.retry else '--checkpoint'}",
                         hint="the directory is carried to one attempt")  # fmt: skip
    if not wanted.words and not wanted.image:
        raise UsageError("say what to run", hint="as in: cumulus run -- python train.py")
    if wanted.export not in ("", "ALL", "NONE"):
        raise UsageError(f"--export is ALL or NONE, not {wanted.export!r}", hint="give single variables with -e")
    if wanted.image and wanted.export == "ALL":
        raise UsageError("--export ALL is for programs of the machine; a container has the variables of its image",
                         hint="give single variables with -e")  # fmt: skip
    for text, option, parse in (
        (wanted.gpu, "--gpu", quantity.parse_share),
        (wanted.compute, "--compute", quantity.parse_millis),
        (wanted.duration, "--for", quantity.parse_duration),
    ):
        try:
            if text and parse(text) == 0:
                raise UsageError(f"{option}: {text!r} is no time", hint="write 90s or 1h30m")
        except ValueError as error:
            raise UsageError(f"{option}: {error}") from None
