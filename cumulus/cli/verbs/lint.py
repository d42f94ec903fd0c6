"""`cumulus lint` and `cumulus schema`: manifests are checked where no cluster is, in an editor or a pipeline."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cumulus import __version__
from cumulus.cli import terminal
from cumulus.errors import UsageError
from cumulus.lib import safe_output
from cumulus.lib.printable import json_text, one_line
from cumulus.lib.suggest import nearest
from cumulus.resources.key import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from cumulus.manifest import Problem


def lint(
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="PATH", help="Directories, with all in them, and files.")
    ] = None,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", metavar="NAME", help="The namespace of objects that name none.")
    ] = DEFAULT_NAMESPACE,
    variables: Annotated[
        str, typer.Option(metavar="FILE", help="With a line NAME=value for each variable.", show_default=False)
    ] = "",
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FORM", help="text, github, sarif or json.", show_default=False)
    ] = "text",
) -> int:
    """Check manifests as a Source would, without a cluster. The exit code is 0 where all is well, else 1.

    \b
    Examples:
      cumulus lint manifests/
      cumulus lint --variables clusters/east.env manifests/
      cumulus lint -o github manifests/
      cumulus lint -o sarif . > cumulus.sarif
    """
    if output not in _FORMS:
        close = nearest(output, _FORMS)
        names = f"{', '.join([*_FORMS][:-1])} or {[*_FORMS][-1]}"
        raise UsageError(f"there is no output format {output!r} here", hint=f"write {close[0] if close else names}")
    if not paths:
        raise UsageError("say what to check", hint="cumulus lint DIRECTORY")
    from cumulus.gitops.desired import desired
    from cumulus.manifest import InvalidManifest

    files = _read([*paths, variables] if variables else paths)
    read = len(files) - bool(variables)
    if not read:
        raise UsageError(
            f"there is no manifest in {one_line(' '.join(paths))}",
            hint="the names of manifests end with .yaml, .yml or .json",
        )
    problems: Sequence[Problem] = ()
    count = 0
    try:
        count = len(desired(files, namespace, variables))
    except InvalidManifest as error:
        problems = error.problems
    text = _FORMS[output](problems)
    if text:
        safe_output.block(sys.stdout, text + "\n")
    if problems:
        terminal.note(f"{_counted(len(problems), 'problem')} in {_counted(len(files), 'file')}")
        return 1
    if output == "text":
        print(f"{_counted(count, 'object')} in {_counted(read, 'file')}: all is well")
    return 0


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def schema(
    directory: Annotated[
        str, typer.Argument(metavar="[DIRECTORY]", help="Where to write a file for each kind, and a catalogue.")
    ] = "",
) -> None:
    """Print the JSON Schema of all kinds, or write one for each kind, for editors.

    \b
    Examples:
      cumulus schema .schemas
      # then, in a manifest:  # yaml-language-server: $schema=../.schemas/cumulus.json
    """
    from cumulus.resources import json_schema

    files = json_schema.files()
    if not directory:
        safe_output.block(sys.stdout, json.dumps(files, indent=2) + "\n")
        return
    place = Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    for name, found in files.items():
        (place / name).write_text(json.dumps(found, indent=2) + "\n")
    print(f"{len(files)} files in {directory}")


def _read(paths: Sequence[str]) -> dict[str, bytes]:
    """By the name under which the caller knows each file."""
    from cumulus.gitops import directory

    found: dict[str, bytes] = {}
    for path in paths:
        try:
            if os.path.isdir(path):
                held = directory.read(path).files
                found |= {os.path.normpath(os.path.join(path, name)): data for name, data in held.items()}
            else:
                found[path] = Path(path).read_bytes()
        except ValueError as error:
            raise UsageError(f"{path} {error}") from None
    return found


def _text(problems: Sequence[Problem]) -> str:
    return "\n".join(map(str, problems))


def _github(problems: Sequence[Problem]) -> str:
    """Workflow commands, which annotate the lines of a pull request."""
    lines = []
    for problem in problems:
        place = f"file={_escaped(problem.position.file, more=True)}"
        if problem.position.line:
            place += f",line={problem.position.line},col={problem.position.column}"
        lines.append(f"::error {place}::{_escaped(_message(problem))}")
    return "\n".join(lines)


def _escaped(text: str, *, more: bool = False) -> str:
    text = one_line(text).replace("%", "%25")
    return text.replace(":", "%3A").replace(",", "%2C") if more else text


def _sarif(problems: Sequence[Problem]) -> str:
    """SARIF 2.1.0, which forges and editors read."""
    results = [
        {
            "ruleId": "manifest", "level": "error", "message": {"text": _message(problem)},
            "locations": [{"physicalLocation": _location(problem)}],
        }
        for problem in problems
    ]  # fmt: skip
    driver = {
        "name": "cumulus lint", "version": __version__,
        "rules": [{"id": "manifest", "shortDescription": {"text": "A manifest that cannot be applied"}}],
    }  # fmt: skip
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    run = {"tool": {"driver": driver}, "results": results}
    return json_text(json.dumps({"version": "2.1.0", "$schema": schema, "runs": [run]}, indent=2))


def _location(problem: Problem) -> dict[str, Any]:
    found: dict[str, Any] = {"artifactLocation": {"uri": problem.position.file}}
    if problem.position.line:
        found["region"] = {"startLine": problem.position.line, "startColumn": problem.position.column}
    return found


def _json(problems: Sequence[Problem]) -> str:
    found = [
        {
            "file": problem.position.file, "line": problem.position.line, "column": problem.position.column,
            "field": problem.field, "message": problem.message,
        }
        for problem in problems
    ]  # fmt: skip
    return json_text(json.dumps(found, indent=2))


def _message(problem: Problem) -> str:
    return f"{problem.field}: {problem.message}" if problem.field else problem.message


_FORMS: dict[str, Callable[[Sequence[Problem]], str]] = {
    "text": _text, "github": _github, "sarif": _sarif, "json": _json,
}  # fmt: skip
