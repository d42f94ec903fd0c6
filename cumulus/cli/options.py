"""Options and arguments that several verbs share, each declared once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from cumulus.cli import completion
from cumulus.errors import UsageError

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="WHAT",
        help="KIND[,KIND], KIND NAME… or KIND/NAME…",
        autocompletion=completion.words,
        show_default=False,
    ),
]
JobWords = Annotated[
    list[str],
    typer.Argument(
        metavar="JOB", help="The job: NAME or job/NAME.", autocompletion=completion.jobs, show_default=False
    ),
]
NodeWords = Annotated[
    list[str],
    typer.Argument(
        metavar="NODE", help="The node: NAME or node/NAME.", autocompletion=completion.nodes, show_default=False
    ),
]
Namespace = Annotated[
    str,
    typer.Option(
        "--namespace", "-n", metavar="NAME", show_default=False, autocompletion=completion.namespaces,
        help="The namespace; if left out, the context's, else default.",
    ),
]  # fmt: skip
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Look in every namespace.")]
Labels = Annotated[
    str,
    typer.Option(
        "--selector", "-l", metavar="SELECTOR", show_default=False, autocompletion=completion.labels,
        help="Label selector: a=b, a!=b, a in (b,c), a, !a, joined by commas.",
    ),
]  # fmt: skip
Fields = Annotated[
    str,
    typer.Option(
        "--field-selector", metavar="SELECTOR", show_default=False,
        help="Field selector: status.phase=Running, metadata.name!=x, joined by commas.",
    ),
]  # fmt: skip
Files = Annotated[
    list[str] | None,
    typer.Option(
        "--filename", "-f", metavar="FILE", show_default=False,
        help="A YAML or JSON file, a directory, or - for stdin. May be given several times.",
    ),
]  # fmt: skip
Recursive = Annotated[bool, typer.Option("--recursive", "-R", help="Read subdirectories too.")]
Output = Annotated[
    str,
    typer.Option(
        "--output", "-o", metavar="FORM", show_default=False, autocompletion=completion.forms,
        help="wide, json, yaml, name, custom-columns=TITLE:.path,… or jsonpath=TEMPLATE.",
    ),
]  # fmt: skip
JsonOutput = Annotated[str, typer.Option("--output", "-o", metavar="FORM", show_default=False, help="json.")]
"""Of a verb that prints a text or JSON; see `check_json`."""
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Keep showing changes until Ctrl-C.")]
NoHeaders = Annotated[bool, typer.Option("--no-headers", help="Leave out the header line.")]


def seconds_of(text: str, option: str) -> float:
    """A duration that was given to `option`. Raises UsageError."""
    from cumulus.resources.quantity import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


DRY_RUN = "--dry-run"
_DRY_RUNS = ("server", "none")


def dry_run(help: str) -> Any:
    """The option --dry-run of a verb that writes: `"none"` is its default, and `is_dry_run` reads it."""
    return typer.Option(
        DRY_RUN, autocompletion=completion.one_of(*_DRY_RUNS), metavar="server|none", show_default=False, help=help
    )  # fmt: skip


def with_dry_run(words: Sequence[str]) -> list[str]:
    """Where --dry-run stands alone, as for verbs that have it without a value, it is --dry-run=server."""
    followed = [*words, ""][1:]
    return [
        f"{word}={_DRY_RUNS[0]}" if word == DRY_RUN and next not in (*_DRY_RUNS, "client") else word
        for word, next in zip(words, followed, strict=True)
    ]


def is_dry_run(word: str) -> bool:
    """Of --dry-run. Raises UsageError."""
    if word not in _DRY_RUNS:
        raise UsageError(f"there is no dry run {word!r}", hint="write --dry-run=server")
    return word == "server"


def check_json(output: str) -> None:
    """Raises UsageError where --output asks a verb that prints a text or JSON for something else."""
    if output not in ("", "json"):
        raise UsageError(f"there is no output format {output!r} here", hint="the format is json")


def count(text: str, option: str, least: int) -> int:
    """A number; the least where none is given. Raises UsageError."""
    if not text:
        return least
    if not (text.isascii() and text.isdecimal()) or int(text) < least:
        raise UsageError(f"{option} takes a number of at least {least}, not {text!r}")
    return int(text)
