"""`cumulus extend`: a longer lease for a running job."""

from __future__ import annotations

from typing import Annotated

import typer

from cumulus.cli import completion, context, options, targets, terminal
from cumulus.resources.documents import lookup
from cumulus.resources.kinds import gpujob


def extend(
    job: Annotated[
        str,
        typer.Argument(metavar="JOB", help="The job: NAME or job/NAME.", autocompletion=completion.jobs),
    ],
    longer: Annotated[str, typer.Argument(metavar="+DURATION", help="How much longer: +2h, +30m.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say whether it could be.")] = False,
    namespace: options.Namespace = "",
) -> None:
    """Lengthen the lease of a running job, if that moves nobody who waits.

    `cumulus why` tells those who wait when they start at the latest. If the longer lease would move somebody, nothing
    is changed, and you are told whom, and how much longer it could be. The job's spec stays: its next attempt has a
    lease of spec.gpu.duration again.

    \b
    Examples:
      cumulus extend train +2h
      cumulus extend train +30m --dry-run
    """
    key = targets.job_key([job], namespace, "only the leases of jobs are extended, not those of")
    seconds = options.seconds_of(longer.removeprefix("+"), "+DURATION")
    with context.client() as client:
        found = client.extend(key, seconds, dry_run=dry_run)
        said = "could last" if dry_run else "lasts"
        print(f"{gpujob.KIND.qualified}/{key.name}: its lease {said} until {_shown(found.until)}")
        if deadline := lookup(client.get(key), "spec.activeDeadline"):
            terminal.note(f"spec.activeDeadline ends the job {deadline} after its first start all the same.")
        if not dry_run:
            context.note_if_no_daemon("its node is told", client)


def _shown(moment: str) -> str:
    from cumulus.clock import to_the_second

    return to_the_second(moment)
