"""`cumulus cluster image`: copies images to the nodes of the Swarm without a registry."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from cumulus import log
from cumulus.answers.swarm import ImageFailed, ImagePushed, ImageSending, NobodyTakes, NodeLeftOut
from cumulus.cli import completion, context, terminal
from cumulus.cli.progress import Progress
from cumulus.cli.subcommands import subcommands
from cumulus.lib import safe_output
from cumulus.resources.quantity import format_bytes

if TYPE_CHECKING:
    from cumulus.answers.swarm import ImageStep

app = subcommands(
    "Copy images to the nodes without a registry.\n\n\b\nExamples:\n  cumulus cluster image push trainer:7",
)
SAY_SECONDS = (1.0, 10.0)
"""Between two words on how far it is, on a terminal and elsewhere."""


@app.command()
def push(
    name: Annotated[str, typer.Argument(metavar="IMAGE", show_default=False, help="The image, with its tag.")],
    node: Annotated[
        list[str] | None,
        typer.Option(
            "--node", metavar="NAME", show_default=False, autocompletion=completion.nodes,
            help="Only to this node; may be given several times.",
        ),
    ] = None,
) -> int:  # fmt: skip
    """Copy an image to the nodes that run containers. The manager's engine has it; it is sent over SSH.

    The image comes from the daemon's engine: the one that SWARM_MANAGER names, else DOCKER_HOST, else Docker's current
    context. If you built it elsewhere, bring it there first: docker save IMAGE | docker --host MANAGER load. The engine
    of each node loads the whole image or nothing. A node that has the image already is left alone. No registry is
    asked.

    Nodes are reached in the same way as the daemon reaches them: by spec.ssh of their GPUNode, else as SWARM_SSH_USER
    (root) at their address in the Swarm, with SSH_KEY_PATH or the SSH agent. Their host keys must be known. The user
    there must be root, have sudo without a password, or be in the group docker.

    \b
    Examples:
      cumulus cluster image push cumulus-job:local
      cumulus cluster image push train:2026-11 --node gpu-1 --node gpu-2
    """
    log.silence()
    failed = False
    every = SAY_SECONDS[0 if sys.stderr.isatty() else 1]
    with (
        context.client(objects=False) as client,
        closing(client.push_image(name, node or [], every=every)) as steps,
        Progress() as progress,
    ):
        for step in steps:
            if isinstance(step, ImageSending):
                progress.say(_so_far(step))
            else:
                failed = _tell(step) or failed
    return 1 if failed else 0


def _tell(step: ImageStep) -> bool:
    """Whether the node failed to get it."""
    if isinstance(step, ImageFailed):
        error = step.error
        terminal.error(f"{step.node}: {error}; {error.hint}" if error.hint else f"{step.node}: {error}")
        return True
    if isinstance(step, NodeLeftOut):
        terminal.note(f"{step.node}: {step.why}")
    elif isinstance(step, ImagePushed):
        done = f"loaded {step.image}" if step.sent else f"has {step.image} already"
        safe_output.line(sys.stdout, f"{step.node}: {done}")
        sys.stdout.flush()
    elif isinstance(step, NobodyTakes):
        safe_output.line(sys.stdout, f"no other node takes containers: {step.image} stays where it is")
    return False


def _so_far(step: ImageSending) -> str:
    parts = [f"{name} {_megabytes(sent)}" for name, sent in sorted(step.sent.items())]
    return f"sending about {_megabytes(step.size)}: {', '.join(parts)}"


def _megabytes(size: int) -> str:
    return format_bytes(size // 2**20 * 2**20)
