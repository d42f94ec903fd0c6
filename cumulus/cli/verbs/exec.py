"""`cumulus exec`: a program beside the one of a job."""

from __future__ import annotations

from typing import Annotated

import typer

from cumulus.cli import completion, context, joined, options, raw_terminal, targets
from cumulus.errors import UsageError
from cumulus.lib.execution import ExecRequest
from cumulus.resources.key import Key

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="JOB -- COMMAND ARGS", help="The job, then the command.", autocompletion=completion.jobs,
        show_default=False,
    ),
]  # fmt: skip
Replica = Annotated[int, typer.Option("--replica", metavar="N", min=0, help="Beside which replica of a gang.")]


def exec(
    words: Words = None,
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Pass this command's input on.")] = False,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="Give it a terminal.")] = False,
    replica: Replica = 0,
    namespace: options.Namespace = "",
) -> int:
    """Run a command beside a running job.

    It runs as the user who submitted the job, in its lease and its limits, with its environment, in its directory: a
    shell beside your training sees the same GPU. It ends with the job, and with this command. The exit code is its own;
    127 means that there is no such command, 126 that it can't be started.

    \b
    Examples:
      cumulus exec train -- nvidia-smi
      cumulus exec -it train -- bash
      cumulus exec -it train --replica 3 -- python -m pdb -p 1234
      cat data.txt | cumulus exec -i train -- wc -l
    """
    job, command = _split(words or [])
    key = job_key(job, namespace)
    if tty:
        joined.check_terminal()
    asked = ExecRequest(tuple(command), stdin, raw_terminal.kind() if tty else "")
    with context.client() as client:
        program = client.exec(key, replica, asked)
        try:
            return joined.join(program, stdin=stdin, tty=tty)
        finally:
            program.close()


def _split(words: list[str]) -> tuple[str, list[str]]:
    """The job, and the command. Raises UsageError."""
    if not words:
        raise UsageError("name a job, then a command", hint="as in: cumulus exec train -- nvidia-smi")
    if not words[1:]:
        raise UsageError("there is no command to run", hint=f"as in: cumulus exec -it {words[0]} -- bash")
    return words[0], words[1:]


def job_key(word: str, namespace: str) -> Key:
    """Of the job that a person named: NAME or job/NAME. Raises UsageError."""
    return targets.job_key([word], namespace, "only jobs run programs, not")
