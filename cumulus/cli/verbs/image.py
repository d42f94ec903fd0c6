"""`cumulus cluster image`: images on the nodes of the Swarm without a registry."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Annotated

import typer

from cumulus import daemon_lock, log, paths
from cumulus.backends.swarm import images
from cumulus.backends.swarm.engine import Engine, each
from cumulus.backends.swarm.images import Image
from cumulus.backends.swarm.members import Member, distinct
from cumulus.backends.swarm.settings import SwarmSettings
from cumulus.cli import completion, context, terminal
from cumulus.cli.progress import Progress
from cumulus.errors import CumulusError, UsageError
from cumulus.infrastructure import swarm
from cumulus.lib import safe_output
from cumulus.nodes import workers
from cumulus.resources.documents import lookup
from cumulus.resources.node import GPUNode, SshAddress
from cumulus.resources.quantity import format_bytes
from cumulus.store.base import Query
from cumulus.store.client import decode

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Copy images to the nodes without a registry.\n\n\b\nExamples:\n  cumulus cluster image push trainer:7",
)
AT_ONCE = 4
"""Nodes that are sent to at once."""
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

    The image comes from the engine that SWARM_MANAGER names, else DOCKER_HOST, else Docker's current context. If you
    built it elsewhere, bring it there first: docker save IMAGE | docker --host MANAGER load. Each node's engine loads
    the whole image or nothing. A node that has the image already is left alone. No registry is asked.

    Nodes are reached in the same way as the daemon reaches them: by spec.ssh of their GPUNode, else as SWARM_SSH_USER
    (root) at their address in the Swarm, with SSH_KEY_PATH or the SSH agent. Their host keys must be known. The user
    there must be root, have sudo without a password, or be in the group docker.

    \b
    Examples:
      cumulus cluster image push cumulus-job:local
      cumulus cluster image push train:2026-11 --node gpu-1 --node gpu-2
    """
    log.silence()
    engine = swarm.named_engine()
    image = images.find(each(engine), name)
    targets, left_out = _targets(engine, image, node or [])
    for why in left_out:
        terminal.note(why)
    if not targets:
        safe_output.line(sys.stdout, f"no other node takes containers: {image.name} stays where it is")
        return 0
    return 1 if _push_all(image, targets) else 0


def _targets(
    engine: Engine, image: Image, wanted: Sequence[str]
) -> tuple[Mapping[str, SshAddress], Sequence[str]]:  # fmt: skip
    """Where to send it, and what there is to say of the other nodes."""
    members = {member.name: member for member in distinct([Member.read(found) for found in engine.nodes()])}
    if unknown := [name for name in wanted if name not in members]:
        raise UsageError(
            f"no node of the Swarm is named {unknown[0]}", hint=f"its nodes are {', '.join(sorted(members))}"
        )
    addresses = _addresses()
    user = SwarmSettings().ssh_user
    targets, said = {}, []
    for name, member in sorted(members.items()):
        if wanted and name not in wanted:
            continue
        if member.id == image.node_id:
            said.append(f"{name}: the image is from its engine")
        elif not wanted and not (member.answers and member.availability == "active"):
            why = f"its availability is {member.availability}" if member.answers else f"it is {member.state}"
            said.append(f"{name}: left out, since {why}")
        else:
            targets[name] = addresses.get(name) or SshAddress(host=member.address, user=user)
    return targets, said


def _addresses() -> Mapping[str, SshAddress]:
    """Of the GPUNodes that are known: before the first daemon there are none."""
    if not daemon_lock.store_file(paths.home()).exists():
        return {}
    with context.open_store() as store:
        found = [decode(GPUNode, item) for item in store.list(Query(GPUNode.KIND)).items if lookup(item, "spec.ssh")]
    return {node.metadata.name: node.spec.ssh for node in found if node.spec.ssh is not None}


def _push_all(image: Image, targets: Mapping[str, SshAddress]) -> bool:
    """Whether it failed for any node. Each is told of when it is done."""
    failed = False
    on_the_way: dict[str, int] = {}
    pause = SAY_SECONDS[0 if sys.stderr.isatty() else 1]
    shells = {
        name: workers.ConnectionShell(workers.connection(name, ssh, paths.home())) for name, ssh in targets.items()
    }

    def push_to(name: str) -> bool:
        return images.push(image, shells[name], targets[name].user, lambda sent: on_the_way.update({name: sent}))

    with ThreadPoolExecutor(AT_ONCE) as pool, Progress() as progress:
        names = {pool.submit(push_to, name): name for name in targets}
        left: set[Future[bool]] = set(names)
        try:
            while left:
                done, left = wait(left, pause, FIRST_COMPLETED)
                for future in done:
                    failed = not _tell(names[future], image, future) or failed
                    on_the_way.pop(names[future], None)
                if on_the_way:
                    progress.say(_so_far(dict(on_the_way), image))
        finally:
            # Also at Ctrl-C: what is on its way is cut off then, and its node keeps nothing of it.
            pool.shutdown(wait=False, cancel_futures=True)
            for shell in shells.values():
                shell.close()
    return failed


def _tell(name: str, image: Image, future: Future[bool]) -> bool:
    try:
        sent = future.result()
    except CumulusError as error:
        terminal.error(f"{name}: {error}; {error.hint}" if error.hint else f"{name}: {error}")
        return False
    safe_output.line(sys.stdout, f"{name}: {f'loaded {image.name}' if sent else f'has {image.name} already'}")
    sys.stdout.flush()
    return True


def _so_far(on_the_way: Mapping[str, int], image: Image) -> str:
    parts = [f"{name} {_megabytes(sent)}" for name, sent in sorted(on_the_way.items())]
    return f"sending about {_megabytes(image.size)}: {', '.join(parts)}"


def _megabytes(size: int) -> str:
    return format_bytes(size // 2**20 * 2**20)
