"""Sends an image from one engine to those of several nodes at once, over SSH."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from cumulus.answers.swarm import (
    ImageFailed,
    ImagePushed,
    ImageSending,
    ImageStep,
    NobodyTakes,
    NodeLeftOut,
)
from cumulus.backends.swarm import images
from cumulus.backends.swarm.engine import Engine, each
from cumulus.backends.swarm.images import Image
from cumulus.backends.swarm.members import SwarmMember, distinct
from cumulus.errors import CumulusError, UsageError
from cumulus.lib import host_image
from cumulus.nodes.workers import ConnectionShell
from cumulus.resources.node import SshAddress

AT_ONCE = 4
"""Nodes that are sent to at once."""


def push(
    engine: Engine, name: str, wanted: Sequence[str], addresses: Mapping[str, SshAddress],
    *, user: str, shell: Callable[[str, SshAddress], ConnectionShell], every: float,
) -> Generator[ImageStep]:  # fmt: skip
    """See `service.swarm.Swarm.push_image`. Nodes without an address are reached as `user` at the Swarm's;
    `shell` reaches them."""
    image = None if name in (host_image.NAME, host_image.TAG) else images.find(each(engine), name)
    targets, left_out = _targets(engine, "" if image is None else image.node_id, wanted, addresses, user)
    yield from left_out
    if targets:
        yield from _push_all(image, targets, {name: shell(name, ssh) for name, ssh in targets.items()}, every)
    else:
        yield NobodyTakes(name if image is None else image.name)


def _targets(
    engine: Engine, from_node: str, wanted: Sequence[str], addresses: Mapping[str, SshAddress], user: str
) -> tuple[Mapping[str, SshAddress], Sequence[NodeLeftOut]]:
    """Where to send it, and what there is to say of the other nodes."""
    members = {member.name: member for member in distinct([SwarmMember.read(found) for found in engine.nodes()])}
    if unknown := [name for name in wanted if name not in members]:
        raise UsageError(
            f"no node of the Swarm is named {unknown[0]}", hint=f"its nodes are {', '.join(sorted(members))}"
        )
    targets, said = {}, []
    for name, member in sorted(members.items()):
        if wanted and name not in wanted:
            continue
        if member.id == from_node:
            said.append(NodeLeftOut(name, "the image is from its engine"))
        elif not wanted and not (member.answers and member.availability == "active"):
            why = f"its availability is {member.availability}" if member.answers else f"it is {member.state}"
            said.append(NodeLeftOut(name, f"left out, since {why}"))
        else:
            targets[name] = addresses.get(name) or SshAddress(host=member.address, user=user)
    return targets, said


def _push_all(
    image: Image | None, targets: Mapping[str, SshAddress], shells: Mapping[str, ConnectionShell], every: float
) -> Generator[ImageStep]:
    """Each node is told of when it is done. `image`: None for the host image, of which each node gets its own."""
    on_the_way: dict[str, int] = {}
    title, size = (host_image.TAG, 0) if image is None else (image.name, image.size)

    def push_to(name: str) -> bool:
        user = targets[name].user
        fitting = images.host_image_for(shells[name], user) if image is None else image
        return images.push(fitting, shells[name], user, lambda sent: on_the_way.update({name: sent}))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        names = {pool.submit(push_to, name): name for name in targets}
        left: set[Future[bool]] = set(names)
        try:
            while left:
                done, left = wait(left, every, FIRST_COMPLETED)
                for future in done:
                    yield _result(names[future], title, future)
                    on_the_way.pop(names[future], None)
                if on_the_way:
                    yield ImageSending(dict(on_the_way), size)
        finally:
            # Also where nobody waits for it any more: what is on its way is cut off then, and its node keeps nothing.
            pool.shutdown(wait=False, cancel_futures=True)
            for shell in shells.values():
                shell.close()


def _result(name: str, image: str, future: Future[bool]) -> ImageStep:
    try:
        return ImagePushed(name, image, future.result())
    except CumulusError as error:
        return ImageFailed(name, error)
