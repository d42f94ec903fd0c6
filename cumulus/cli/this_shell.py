"""What `cumulus run` takes from the shell in which it is typed. Raises UsageError where it is not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from cumulus.cli import command_job
from cumulus.cli.command_job import Shell, Wanted
from cumulus.errors import UsageError
from cumulus.resources.key import Document


def umask() -> int:
    """It can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise UsageError("the directory that you are in is gone", hint="cd to one that is there") from None


def program(wanted: Wanted, job: Document, shell: Shell) -> str:
    """The program as the job is to call it. Raises UsageError where this machine, which runs it, cannot start it."""
    word = wanted.words[0]
    if "/" in word:
        path = os.path.normpath(os.path.join(shell.directory, word))
        if os.path.isdir(path) or not os.path.exists(path):
            raise UsageError(f"there is no program {path}", hint="give the path of one that is there")
        if not os.access(path, os.X_OK):
            raise UsageError(
                f"{word} is not executable", hint=f"chmod +x {word}, or name its interpreter: python {word}"
            )
        return word
    own = next((each["value"] for each in job["spec"].get("env", ()) if each["name"] == "PATH"), None)
    found = shutil.which(word, path=shell.variables.get("PATH", os.defpath) if own is None else own)
    if found is None:
        beside = os.path.exists(os.path.join(shell.directory, word))
        raise UsageError(
            f"there is no program {word!r} on PATH",
            hint=f"write ./{word} for the file in this directory" if beside else "give its path, or check its name",
        )
    # Without this shell's PATH the job would look elsewhere.
    return os.path.abspath(found) if own is None else word


def variables(env: Sequence[str], files: Sequence[str]) -> list[tuple[str, str]]:
    """Those of the files, then those of the options, which win. Raises UsageError."""
    found = []
    for file in files:
        try:
            with open(file, encoding="utf-8") as opened:
                found += command_job.given_in(opened, os.environ, file)
        except UnicodeDecodeError:
            raise UsageError(f"--env-file: {file} is not UTF-8 text") from None
        except OSError as error:
            raise UsageError(f"--env-file: {file} cannot be read: {error.strerror}") from None
    return found + [command_job.given(text, os.environ, "-e") for text in env]
