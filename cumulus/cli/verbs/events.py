"""`cumulus events`: who did what, and why. The latest comes last."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cumulus.cli import completion, context, options, targets
from cumulus.cli.left_out import LeftOut
from cumulus.cli.printers import Tables, printer
from cumulus.cli.targets import Selection, Target
from cumulus.cli.verbs import get
from cumulus.clock import SystemClock
from cumulus.errors import UsageError
from cumulus.resources.columns import Cells
from cumulus.resources.kinds import event, gpujob


def events(
    about: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="KIND/NAME",
            show_default=False,
            autocompletion=completion.words,
            help="Only those about this object.",
        ),
    ] = "",
    types: Annotated[str, typer.Option(metavar="TYPE", show_default=False, help="Only Normal or only Warning.")] = "",
    output: options.Output = "",
    namespace: options.Namespace = "",
    all_namespaces: options.AllNamespaces = False,
    watch: options.Watch = False,
    no_headers: options.NoHeaders = False,
) -> int:
    """Show what happened to objects, who did it, and why. The latest event comes last.

    \b
    Examples:
      cumulus events
      cumulus events --for job/train
      cumulus events -A -w
      cumulus events --types=Warning
    """  # fmt: skip
    fields = []
    if about:
        target = targets.parse_one([about] if "/" in about else ["job", about], default=gpujob.KIND)
        fields = [f"involvedObject.kind={target.kind.name}", f"involvedObject.name={target.name}"]
        all_namespaces = all_namespaces or not target.kind.namespaced
    if types:
        if types.capitalize() not in ("Normal", "Warning"):
            raise UsageError(f"there is no type {types!r} of event", hint="it is Normal or Warning")
        fields.append(f"type={types.capitalize()}")
    selection = Selection(None if all_namespaces else context.namespace(namespace), fields=",".join(fields))
    with context.client() as client:
        tables = Tables(
            sys.stdout,
            lambda: Cells(SystemClock().now()),
            LeftOut(client),
            wide=output == "wide",
            all_namespaces=all_namespaces,
            heading=not no_headers,
        )
        found = [Target(event.KIND)]
        view = printer(output, sys.stdout, tables, [found[0].kind], heading=not no_headers, stream=watch)
        if watch:
            get.follow(client, found, selection, view)
        return get.show(client, found, selection, view, None)
