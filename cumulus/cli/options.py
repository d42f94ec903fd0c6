"""Options and arguments that several verbs share, each declared once."""

from __future__ import annotations

from typing import Annotated

import typer

from cumulus.cli import completion

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
        "--namespace", "-n", metavar="NAME", show_default=False,
        help="The namespace; if left out, the context's, else default.",
    ),
]  # fmt: skip
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Look in every namespace.")]
Labels = Annotated[
    str,
    typer.Option(
        "--selector", "-l", metavar="SELECTOR", show_default=False,
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
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Keep showing changes until Ctrl-C.")]
NoHeaders = Annotated[bool, typer.Option("--no-headers", help="Leave out the header line.")]
