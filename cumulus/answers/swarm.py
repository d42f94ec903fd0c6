"""Requests about the Docker Swarm, and their answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cumulus.errors import CumulusError


@dataclass(frozen=True, slots=True)
class SwarmMade:
    """`made`: whether it is new; else its settings were put right. `address`: the manager's."""

    made: bool
    address: str


@dataclass(frozen=True, slots=True)
class SwarmInvitation:
    """What a machine needs to join as a worker: the manager's address and a token, which is a secret."""

    address: str
    token: str


@dataclass(frozen=True, slots=True)
class SwarmMachine:
    """One node of the Swarm, as Docker says it. `gpus`: how many, "" where it does not say."""

    name: str
    state: str
    availability: str
    role: str
    engine: str
    address: str
    gpus: str


@dataclass(frozen=True, slots=True)
class SwarmStatus:
    """`machines` by name. `problems`: what is not as jobs need it, in sentences; whose the Swarm is comes first."""

    machines: tuple[SwarmMachine, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SwarmMark:
    """The mark of a Swarm's owner: `store` and `where` tell people whose it is."""

    store: str
    place: str
    instance: str
    where: str
    since: str
    id: str
    version: int


@dataclass(frozen=True, slots=True)
class SwarmOwnership:
    """Whose the Swarm is now, and what runs on it."""

    mark: SwarmMark | None
    """None where it has none."""
    ours: bool
    own_services: int = 0
    """Services of the mark's owner that are jobs of this store."""
    other_services: tuple[str, ...] = ()
    """The names of those that are not."""


@dataclass(frozen=True, slots=True)
class NodeLeftOut:
    """An image is not sent to it."""

    node: str
    why: str


@dataclass(frozen=True, slots=True)
class NobodyTakes:
    """No other node takes containers: the image stays where it is."""

    image: str


@dataclass(frozen=True, slots=True)
class ImageSending:
    """How many bytes each node that is being sent to has got, of about `size`."""

    sent: Mapping[str, int]
    size: int


@dataclass(frozen=True, slots=True)
class ImagePushed:
    """`sent` is False where the node had it already."""

    node: str
    image: str
    sent: bool


@dataclass(frozen=True, slots=True)
class ImageFailed:
    """The node did not get it."""

    node: str
    error: CumulusError


ImageStep = NodeLeftOut | NobodyTakes | ImageSending | ImagePushed | ImageFailed
