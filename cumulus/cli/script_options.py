"""Options of `cumulus run` that stand in a script (`#CUMULUS`, `#SBATCH`) or in a person's own file of defaults. Pure
but for reading those files.

    #CUMULUS --gpu 25% --for 2h
    #SBATCH --time=2:00:00 --gres=gpu:2
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cumulus.errors import UsageError

_SCALARS = {
    "--gpu": "gpu", "--compute": "compute", "--gpus": "gpus", "--for": "duration", "--name": "name",
    "--replicas": "replicas", "--image": "image", "--export": "export", "--retry": "retry",
    "--checkpoint": "checkpoint", "--queue": "queue", "--cpus": "cpus", "--memory": "memory",
    "--after": "after", "--array": "array", "--idle": "idle",
    "--values": "values", "--parallelism": "parallelism", "--preemptible": "preemptible",
}  # fmt: skip
_LISTS = {
    "--env": "env", "-e": "env", "--env-file": "env_file", "--secret-env": "secret_env",
    "--matrix": "matrix",
}  # fmt: skip
_MOST_BYTES = 1 << 20
_OURS, _SLURMS = "#CUMULUS", "#SBATCH"
_SHORT = {
    "-J": "--job-name", "-t": "--time", "-G": "--gpus", "-c": "--cpus-per-task", "-n": "--ntasks", "-N": "--nodes",
    "-D": "--chdir", "-o": "--output", "-e": "--error", "-i": "--input", "-p": "--partition", "-A": "--account",
    "-q": "--qos", "-a": "--array", "-d": "--dependency", "-C": "--constraint", "-w": "--nodelist", "-x": "--exclude",
}  # fmt: skip
_FLAGS = frozenset(("--requeue", "--exclusive", "--parsable", "--hold", "--no-requeue", "--overcommit", "--spread-job"))
_AS_IT_IS = frozenset(("--requeue", "--exclusive", "--parsable"))
"""What is so anyway."""
_RIGHT = {
    "--time": "minutes, HH:MM:SS or D-HH:MM:SS", "--cpus-per-task": "a number, as --cpus-per-task=4",
    "--mem": "a size, as --mem=16G", "--dependency": "afterok:JOB:JOB", "--ntasks": "a number, as --ntasks=4",
    "--nodes": "a number, as --nodes=2",
}  # fmt: skip
"""Of each that may be wrong, what is understood."""


class ScriptOptions(NamedTuple):
    """What a file says: values by the parameter of `run`, the words that start the script, and what of Slurm's has no
    meaning here."""

    scalars: dict[str, str]
    lists: dict[str, list[str]]
    words: tuple[str, ...] = ()
    directory: str = ""
    left_out: tuple[str, ...] = ()


def defaults(file: Path) -> ScriptOptions:
    """A person's own: the same options, over as many lines as they like. Raises UsageError."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ScriptOptions({}, {})
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text") from None
    lines = ((number, line) for number, line in enumerate(text.splitlines(), 1) if not line.lstrip().startswith("#"))
    scalars, lists = _ours((f"{file}:{number}", line) for number, line in lines)
    return ScriptOptions(scalars, lists)


def of_script(words: Sequence[str], directory: str, programs: str) -> ScriptOptions | None:
    """What the script that the words begin with says; None where it is no script with such lines. A program that is on
    `programs`, a PATH, goes before a file of the directory. Raises UsageError, with file and line."""
    if not words or ("/" not in words[0] and shutil.which(words[0], path=programs)):
        return None
    path = os.path.join(directory, words[0])
    lines = _head(path)
    ours = [(f"{words[0]}:{number}", line[len(_OURS) :]) for number, line in lines if _begins(line, _OURS)]
    slurms = [(f"{words[0]}:{number}", line[len(_SLURMS) :]) for number, line in lines if _begins(line, _SLURMS)]
    if not ours and not slurms:
        return None
    scalars, left_out, chdir = _slurm(slurms)
    own, lists = _ours(ours)
    if chdir:
        # The script is here; its commands start there.
        program = path
    else:
        program = words[0] if "/" in words[0] else f"./{words[0]}"
    starts = [program] if os.access(path, os.X_OK) else [*shlex.split(lines[0][1][2:]), program]
    return ScriptOptions({**scalars, **own}, lists, (*starts, *words[1:]), chdir, tuple(left_out))


def merged(
    scalars: dict[str, str], lists: dict[str, list[str]], *told: ScriptOptions
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """What was typed, over what `told` says, of which the first wins."""
    found, many = dict(scalars), {name: list(values) for name, values in lists.items()}
    for each in told:
        for name, value in each.scalars.items():
            found[name] = found.get(name) or value
        for name, values in each.lists.items():
            # What comes later wins.
            many[name] = [*values, *many.get(name, [])]
    return found, many


def secret_env(text: str) -> dict[str, object]:
    """An entry of spec.env for NAME=SECRET or NAME=SECRET/KEY. Raises UsageError."""
    name, equals, secret = text.partition("=")
    secret, slash, key = secret.partition("/")
    if not equals or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) or not secret or (slash and not key):
        raise UsageError(f"--secret-env: {text!r} is not NAME=SECRET/KEY", hint="as in HF_TOKEN=hub/token")
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key or name}}}


def _begins(line: str, word: str) -> bool:
    return line.startswith(word) and line[len(word) :][:1] in ("", " ", "\t")


def _head(path: str) -> list[tuple[int, str]]:
    """The lines of a script before its first command, numbered; none where it is no script."""
    if not os.path.isfile(path):
        # Nobody may write to a pipe.
        return []
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_BYTES).decode()
    except (OSError, UnicodeDecodeError):
        return []
    lines = text.splitlines()
    if not lines or not lines[0].startswith("#!"):
        return []
    first = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    return list(enumerate(lines[:first], 1))


def _ours(lines: Iterable[tuple[str, str]]) -> tuple[dict[str, str], dict[str, list[str]]]:
    scalars: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    for where, line in lines:
        for option, value in _options(where, line):
            if option not in _SCALARS and option not in _LISTS:
                known = ", ".join((*_SCALARS, *_LISTS))
                raise UsageError(f"{where}: there is no option {option} here", hint=f"there are {known}")
            if value is None:
                raise UsageError(f"{where}: {option} needs a value")
            if option in _SCALARS:
                scalars[_SCALARS[option]] = value
            else:
                lists.setdefault(_LISTS[option], []).append(value)
    return scalars, lists


def _options(where: str, line: str, flags: frozenset[str] = frozenset()) -> Iterator[tuple[str, str | None]]:
    """`--option value`, `--option=value`, `-o value` and `-ovalue`."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            raise UsageError(f"{where}: {word!r} is no option", hint="write --gpu 25% --for 2h")
        option, equals, value = word.partition("=")
        if not word.startswith("--") and len(option) > 2:
            option, equals, value = word[:2], "=", word[2:].removeprefix("=")
        if equals:
            yield option, value
        elif option in flags or not words:
            yield option, None
        else:
            yield option, words.pop(0)


def _slurm(lines: Iterable[tuple[str, str]]) -> tuple[dict[str, str], list[str], str]:
    """Values, what is left out, and the directory to start in."""
    found: dict[str, str] = {}
    left_out: list[str] = []
    chdir = ""
    for where, line in lines:
        for given, value in _options(where, line, _FLAGS):
            option = _SHORT.get(given, given)
            try:
                taken = _taken(option, value or "")
            except ValueError:
                raise UsageError(
                    f"{where}: {option} {value or ''!r} is not understood", hint=f"write {_RIGHT[option]}"
                ) from None
            if option == "--chdir" and value:
                chdir = value
            elif taken is None:
                if option not in _AS_IT_IS:
                    left_out.append(option)
            else:
                # The tasks are as many as the nodes, where both are given and nothing else is said.
                if taken[0] != "replicas" or option == "--ntasks" or "replicas" not in found:
                    found[taken[0]] = taken[1]
    return found, list(dict.fromkeys(left_out)), chdir


def _taken(option: str, value: str) -> tuple[str, str] | None:
    """The parameter of `run` and its value; None for what has no meaning here. Raises ValueError."""
    match option:
        case "--job-name":
            name = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-")[:57].strip("-")
            return ("base", name) if name else None
        case "--time":
            seconds = _seconds(value)
            return ("duration", f"{seconds}s") if seconds else None
        case "--gres" | "--gpus" | "--gpus-per-node" | "--gpus-per-task":
            parts = value.split(",")[0].split(":")
            if option == "--gres":
                if parts[0] != "gpu":
                    return None
                parts = parts[1:]
            return "gpus", str(int(parts[-1])) if parts and parts[-1].isdecimal() else "1"
        case "--cpus-per-task":
            return "cpus", str(int(value))
        case "--mem":
            size = re.fullmatch(r"(\d+)([KMGT]?)B?", value.upper(), re.ASCII)
            if size is None:
                raise ValueError(value)
            return ("memory", f"{size[1]}{size[2] or 'M'}i") if int(size[1]) else None
        case "--dependency":
            kind, _, names = value.partition(":")
            if kind != "afterok" or not names or "," in names or "?" in names or "+" in names:
                raise ValueError(value)
            return "after", names.replace(":", ",")
        case "--array":
            return "array", value
        case "--ntasks" | "--nodes":
            return "replicas", str(int(value.split("-")[0]))
        case "--export":
            return ("export", value.upper()) if value.upper() in ("ALL", "NONE") else None
    return None


def _seconds(text: str) -> int:
    """Slurm's times: minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S; 0 for none. Raises ValueError."""
    if text.upper() in ("UNLIMITED", "INFINITE"):
        return 0
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if not 1 <= len(parts) <= 3:
        raise ValueError(text)
    if dash:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return ((int(days) * 24 + hours) * 60 + minutes) * 60 + seconds
    if len(parts) == 1:
        return parts[0] * 60
    hours, minutes, seconds = parts if len(parts) == 3 else (0, *parts)
    return (hours * 60 + minutes) * 60 + seconds
