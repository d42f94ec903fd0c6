"""What the command server's spare fork does while it waits for its command: it rehearses one."""

from __future__ import annotations

import json
import os

from cumulus.cli import attached, command_job, context, log_output, progress, same_directory
from cumulus.cli import main as command
from cumulus.cli.command_job import Shell, Wanted
from cumulus.client import connect, contexts, endpoint
from cumulus.client.http import client, connection, logs, watch
from cumulus.lib import spare_fork
from cumulus.resources.key import DEFAULT_NAMESPACE

NAME = "spare"
"""What it goes by while it waits."""
_LINE = ["--gpu", "25%", "--for", "2h", "--", "python", "train.py"]
_WALKED = (
    attached, client, connect, connection, context, contexts, endpoint, log_output, logs, progress, same_directory,
    watch,
)  # fmt: skip
"""Modules that a command runs through once it has been read."""


def rehearse() -> None:
    """Read a command line as one that comes will be, and make its job. Nobody is asked, and no file is touched."""
    group, verb = command.group_of_verbs(), command.load("run")
    with group.make_context("cumulus", ["run", *_LINE]) as outer, verb.make_context("run", [*_LINE], parent=outer):
        pass
    shell = Shell("/", {"PATH": os.defpath})
    wanted = Wanted(tuple(_LINE[-2:]), gpu="25%", duration="2h")
    job = command_job.job_of(wanted, shell, DEFAULT_NAMESPACE, command_job.random_ending()).job
    json.loads(json.dumps(job))
    for module in _WALKED:
        spare_fork.walk(module)
