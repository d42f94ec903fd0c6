"""Copies an image from one engine to the engines of nodes, without a registry: `docker save` here, `docker load` there.

A node's engine takes an image whole or not at all: layers of an archive that was cut off are not kept, and a name is
given last. What the node has is looked at before and after.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cumulus.backends.swarm.engine import Engine
from cumulus.backends.swarm.shells import Feeds, NodeShell
from cumulus.errors import BackendError, BackendRefused, ChronosError
from cumulus.lib import host_image

_SECONDS = 30.0
_MAY_NOT = "permission denied"


@dataclass(frozen=True, slots=True)
class Image:
    """One image of one engine. `name` has a tag; `node_id` is the engine's node in the Swarm."""

    engine: Engine
    name: str
    id: str
    size: int
    platform: str
    node_id: str

    def archive(self) -> Iterator[bytes]:
        """As `docker save` writes it. Raises `BackendError`."""
        return self.engine.save_image(self.name)


def find(engines: Sequence[Engine], word: str) -> Image:
    """The image of the first engine that has it. Raises `BackendRefused` where none has, or where the word is no name
    with which it could be loaded, `BackendError`."""
    if "@" in word:
        raise BackendRefused(
            f"{word} names an image by its digest, which only a registry can give to a node", hint="give NAME:TAG"
        )
    problem: BackendError | None = None
    for engine in engines:
        try:
            found = engine.image(word)
            if found is not None:
                return _image(engine, word, found, str(engine.info()["Swarm"].get("NodeID", "")))
        except BackendRefused:
            raise
        except BackendError as error:
            problem = error
    if problem is not None:
        raise problem
    where = ", ".join(url for engine in engines for url in engine.urls)
    raise BackendRefused(
        f"the engine {where} has no image {word}",
        hint=f"build it there, or carry it there: docker save {shlex.quote(word)} | docker --host MANAGER load",
    )


def _image(engine: Engine, word: str, found: dict[str, Any], node_id: str) -> Image:
    tags = [str(tag) for tag in found.get("RepoTags") or ()]
    wanted = word.removeprefix("docker.io/").removeprefix("library/")
    name = next((tag for tag in tags if tag in (wanted, f"{wanted}:latest")), None)
    if name is None:
        hint = f"give one of: {', '.join(tags)}" if tags else f"name it: docker tag {word} NAME:TAG"
        raise BackendRefused(f"{word} is not the name of an image", hint=hint)
    platform = f"{found.get('Os', '')}/{found.get('Architecture', '')}"
    return Image(engine, name, str(found["Id"]), int(found.get("Size", 0)), platform, node_id)


@dataclass(frozen=True, slots=True)
class PlatformImage:
    """The host image for a platform: it is made here, and no engine has to have it."""

    platform: str
    name: str = host_image.TAG

    @property
    def id(self) -> str:
        return self._made.id

    @property
    def size(self) -> int:
        return len(self._made.archive)

    def archive(self) -> Iterator[bytes]:
        yield self._made.archive

    @property
    def _made(self) -> host_image.HostImage:
        system, _, architecture = self.platform.partition("/")
        try:
            return host_image.image(architecture if system == "linux" else self.platform)
        except ValueError as error:
            raise BackendRefused(str(error)) from None


def host_image_for(node: NodeShell, user: str) -> PlatformImage:
    """The one that fits the node's engine. Raises `BackendError`."""
    try:
        return PlatformImage(_platform(node, _command(node, user)))
    except ChronosError as error:
        raise BackendError(str(error), hint=error.hint) from None


def push(image: Image | PlatformImage, node: Feeds, user: str, sent: Callable[[int], None]) -> bool:
    """Bring the image to the node. False where it has it already. `user` is who we are there; `sent` is told how many
    bytes are on their way. Raises `BackendError`."""
    try:
        docker = _command(node, user)
        before = _has(node, docker, image.name)
        if before == image.id:
            return False
        if _has(node, docker, image.id) == image.id:
            _checked(node, f"{docker} tag {image.id} {shlex.quote(image.name)}")
            return False
        platform = _platform(node, docker)
        if platform != image.platform:
            raise BackendRefused(f"the image is for {image.platform}, and the node is {platform}")
        status, output, errors = node.feed(f"{docker} load", _counted(image.archive(), sent))
    except ChronosError as error:
        raise BackendError(str(error), hint=error.hint) from None
    if status != 0:
        raise BackendError(f"docker load: {_last(errors or output) or f'exit code {status}'}")
    # Engines that keep images in other ways name one by other ids.
    if _has(node, docker, image.name) in ("", before):
        raise BackendError(f"docker load says that it is done, and {image.name} is not there")
    return True


def _platform(node: NodeShell, docker: str) -> str:
    return _checked(node, f"{docker} version --format '{{{{.Server.Os}}}}/{{{{.Server.Arch}}}}'").strip()


def _command(node: NodeShell, user: str) -> str:
    """How that user reaches the engine there: `docker`, or with sudo."""
    said = ""
    for docker in ("docker", "sudo -n docker"):
        status, output, errors = node.run(f"{docker} version --format '{{{{.Server.Version}}}}'", _SECONDS)
        if status == 0 and output.strip():
            return docker
        said = said or errors or output
    if _MAY_NOT in said.lower():
        raise BackendRefused(
            f"{user} may not use the engine there",
            hint=f"that takes root, sudo without a password, or the group docker: sudo usermod -aG docker {user}",
        )
    raise BackendError(f"its engine does not answer: {_last(said) or 'no word why'}")


def _has(node: NodeShell, docker: str, name: str) -> str:
    """The id of the image of that name there, "" where there is none."""
    command = f"{docker} image inspect --format '{{{{.Id}}}}' {shlex.quote(name)}"
    status, output, errors = node.run(command, _SECONDS)
    if status != 0 and "no such image" not in errors.lower():
        raise BackendError(_last(errors) or f"docker image inspect: exit code {status}")
    return output.strip() if status == 0 else ""


def _checked(node: NodeShell, command: str) -> str:
    status, output, errors = node.run(command, _SECONDS)
    if status != 0:
        raise BackendError(_last(errors) or f"{command}: exit code {status}")
    return output


def _counted(chunks: Iterable[bytes], sent: Callable[[int], None]) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        yield chunk
        total += len(chunk)
        sent(total)


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:200] if lines else ""
