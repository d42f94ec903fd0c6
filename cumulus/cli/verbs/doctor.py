"""`cumulus doctor`: checks this machine, and says how to fix what is missing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cumulus import health, paths
from cumulus.cli import context, options
from cumulus.cli.printers import to_json
from cumulus.cli.progress import Progress
from cumulus.clock import SystemClock
from cumulus.lib import printable, safe_output
from cumulus.resources.kinds import gpupartition
from cumulus.resources.query import Query

if TYPE_CHECKING:
    from cumulus.health import Finding

PATIENCE = 60.0
"""Seconds after which a check that has not answered is given up."""


def doctor(
    output: options.JsonOutput = "",
    mig: Annotated[
        bool, typer.Option("--mig", help="Say instead which MIG instances would serve those who wait; makes none.")
    ] = False,
) -> int:
    """Check this machine: state, store, daemon, leases, devices, enforcement, Docker, SSH.

    The exit code is 1 if something fails that Cumulus needs. A warning is about something that Cumulus can do without.

    \b
    Examples:
      cumulus doctor
      cumulus doctor -o json
      cumulus doctor --mig
    """
    options.check_json(output)
    with Progress() as progress:
        if sys.stderr.isatty():
            progress.say("looking at this machine")
        findings = _mig() if mig else list(health.examine(health.checks(paths.home()), SystemClock(), PATIENCE))
    if output:
        safe_output.block(sys.stdout, to_json([asdict(finding) for finding in findings]) + "\n")
    else:
        show(findings)
    return 1 if any(finding.level == "FAIL" for finding in findings) else 0


def _mig() -> list[Finding]:
    from cumulus.health import mig

    with context.client(quiet=True) as client:
        pending = client.list(Query(gpupartition.KIND.name, fields="status.phase=Pending")).items
    return list(mig.check(pending))


def show(findings: Sequence[Finding]) -> None:
    """A line for each finding, the fix below it."""
    colours = {"OK": safe_output.GREEN, "WARN": safe_output.YELLOW, "FAIL": safe_output.RED}
    width = max(len(finding.what) for finding in findings)
    room = safe_output.width(sys.stdout)
    for finding in findings:
        level = (f"{finding.level:<4}", colours[finding.level])
        text = printable.wrap(finding.text, max(room - width - 8, 30)) if room else [finding.text]
        safe_output.line(sys.stdout, level, f"  {finding.what:<{width}}  {text[0]}")
        for more in text[1:]:
            safe_output.line(sys.stdout, f"{'':<{width + 8}}{more}")
        if finding.fix:
            safe_output.paragraph(sys.stdout, f"{'':<{width + 8}}fix: {finding.fix}")
