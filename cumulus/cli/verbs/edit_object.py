"""`cumulus edit`: an object as YAML in an editor, written back when that ends."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from cumulus.cli import context, options, printers, targets, terminal
from cumulus.cli.verbs.create import over
from cumulus.errors import Conflict, CumulusError, InvalidObject, UsageError
from cumulus.lib.printable import one_line
from cumulus.resources.key import Document
from cumulus.resources.kinds import gpujob

_EDITORS = ("CUMULUS_EDITOR", "KUBE_EDITOR", "VISUAL", "EDITOR")


def edit(
    words: options.JobWords,
    force: Annotated[
        bool,
        typer.Option("--force", help="Make a job anew if its immutable fields change; the logs of the old are kept."),
    ] = False,
    namespace: options.Namespace = "",
) -> None:
    """Edit an object in your editor: CUMULUS_EDITOR, KUBE_EDITOR, VISUAL or EDITOR, else vi.

    What is wrong is shown at the top of the file, which opens again. Save it unchanged, or empty, to give up.

    \b
    Examples:
      cumulus edit job train
      cumulus edit node/gpu-3
      EDITOR=nano cumulus edit job train --force
    """
    key = targets.key(targets.parse_one(words, default=gpujob.KIND), context.namespace(namespace))
    with context.client() as client:
        live = client.get(key)
        text = _text(live)
        problem, said = "", text
        while True:
            edited = _edited(_head(problem) + said, key.name)
            if _bare(edited) in ("", _bare(said) if problem else _bare(text)):
                terminal.note("Edit cancelled: nothing was changed.")
                if problem:
                    raise CumulusError(problem)
                return
            said = _bare(edited)
            from cumulus import manifest

            try:
                (found,) = manifest.load_text(said, name=f"{key.name}.yaml")
                if found.key != key:
                    raise UsageError(f"this is {found.key}, not {key}", hint="its kind, name and namespace stay")
                if force and client.apply([found], dry_run=True, recreate=True, force_conflicts=True)[0].action == (
                    "recreated"
                ):
                    client.apply([found], recreate=True, force_conflicts=True)
                    print(f"{found.kind.qualified}/{key.name} recreated")
                else:
                    client.update(over(live, found.document))
                    print(f"{found.kind.qualified}/{key.name} edited")
                break
            except manifest.InvalidManifest as error:
                problem = "; ".join(str(each) for each in error.problems)
            except Conflict:
                problem = "somebody else changed it meanwhile; your changes are below, and are compared with theirs now"
                live = client.get(key)
            except (InvalidObject, UsageError, ValueError) as error:
                problem = str(error)
        context.note_if_no_daemon("this takes effect", client)


def _text(document: Document) -> str:
    """Without what nobody can edit."""
    shown = {name: value for name, value in document.items() if name != "status"}
    return printers.to_yaml(printers.without_managed_fields(shown)) + "\n"


def _head(problem: str) -> str:
    said = f"# {one_line(problem)}\n#\n" if problem else ""
    return f"# Lines that begin with # are ignored. An empty file gives up.\n{said}"


def _bare(text: str) -> str:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return "\n".join(lines).strip() + "\n" if any(lines) else ""


def _edited(text: str, name: str) -> str:
    """What the person made of it. Raises CumulusError where there is no editor, or it fails."""
    command = next((found for variable in _EDITORS if (found := os.environ.get(variable))), "vi")
    with tempfile.TemporaryDirectory(prefix="cumulus-edit-") as directory:
        file = Path(directory, f"{name}.yaml")
        file.write_text(text, encoding="utf-8")
        try:
            code = subprocess.run([*shlex.split(command), str(file)], check=False).returncode
        except (OSError, ValueError) as error:
            raise CumulusError(f"the editor {command!r} cannot be started: {error}", hint="set EDITOR") from None
        if code != 0:
            raise CumulusError(f"the editor {command!r} ended with exit code {code}; nothing was changed")
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CumulusError(f"what was edited cannot be read: {error}") from None
