"""Asks a node's own engine what the manager cannot answer, through a shell on the node, over SSH."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shlex
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol, runtime_checkable

from cumulus.backends.swarm.checkpoint_programs import CheckpointPrograms
from cumulus.backends.swarm.log_stream import frame
from cumulus.backends.swarm.shells import Feeds, NodeShell, Relays
from cumulus.checkpoint import layout
from cumulus.chronos.contract.container import FILES, HOST_PREFIX, KEPT, PRIVATE, PROGRAMS, SUBMITTER_VARIABLE
from cumulus.clock import timestamp
from cumulus.errors import BackendError, BackendRefused, ChronosError
from cumulus.lib import host_image
from cumulus.uploader.status import DIRECTORY, FILE

_SECONDS = 20.0
_PART = 4
"""MiB of a file that one command brings."""

_CALLS = "d=$(docker info --format '{{.DockerRootDir}}') || exit 1; d=\"$d/cumulus-calls\""
"""Sets d to where calls are on a node: on the disk of its engine, whose directory is root's. Where the engine does not
answer the script fails: what is there is not gone."""
_MANIFEST_MIB = 16
"""Of a manifest at most; a longer one is damaged when it is read."""


class NodeEngine(Protocol):
    """A node's own engine. Every method raises `BackendError`."""

    def container(self, id: str) -> dict[str, Any] | None: ...

    def kill(self, id: str) -> None:
        """SIGKILL; one that is gone or has ended is no error."""
        ...

    def leave_swarm(self) -> None:
        """Its containers end. One that is in no Swarm is no error."""
        ...

    def container_log(self, id: str, since: float = 0.0) -> bytes:
        """Multiplexed, with time stamps."""
        ...

    def kept_log(self, id: str, since: float = 0.0) -> bytes | None:
        """The same, of a container that is gone; None where its node kept nothing."""
        ...

    def started(self) -> float | None:
        """When the engine was started, by the node's clock in seconds of the epoch; None where that is not known."""
        ...


@runtime_checkable
class SeesFiles(Protocol):
    """A `NodeEngine` that sees the files of its containers."""

    def written(self, id: str, path: str) -> str | None:
        """When the newest file at a path of the container was written, "" where there is none; None where that path is
        not one of the node, or cannot be read there. Raises `BackendError`."""
        ...

    def newest_manifest(self, id: str, path: str) -> tuple[int, str, str] | None:
        """Of the checkpoints at a path of the container the newest with a manifest: its step, when that was written,
        and where it is on the node. None where there is none, or where nobody can look. Raises `BackendError`."""
        ...

    def manifest(self, id: str, file: str) -> bytes:
        """What is in it; nothing where it is no file any more. Raises `BackendError`."""
        ...

    def upload_status(self, id: str, path: str) -> bytes:
        """What the uploader of the checkpoints there says; nothing where there is none. Raises `BackendError`."""
        ...

    def put(self, id: str, path: str, text: str) -> None:
        """Write a small file into a container that runs. Raises `BackendError`."""
        ...

    def put_deadline(self, id: str, path: str, seconds: float) -> None:
        """Write when so many seconds are over, as CLOCK_BOOTTIME of the node, into a file of a container that runs.
        Raises `BackendError`."""
        ...


@runtime_checkable
class RunsPrograms(Protocol):
    """A `NodeEngine` of a node on which programs of its own disk may run. Every method raises `BackendError`."""

    def programs(self, image: str, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the node's `chronos-runtime` answers: see `chronos.host_program.answer`. Raises `BackendRefused` where
        it runs no programs: for want of that, or of the host image with that id ("": not asked for)."""
        ...

    def make_place(self, uid: int) -> None:
        """Make the directory of that user's programs, where there is none: only root may."""
        ...

    def remove_program(self, uid: int, job_uid: str) -> None:
        """Delete what that user's programs of the job left in directories of the job's own."""
        ...


@runtime_checkable
class RunsCheckpoints(Protocol):
    """A `NodeEngine` whose node copies and fetches checkpoints."""

    @property
    def checkpoints(self) -> CheckpointPrograms: ...


class ShellEngine:
    """`NodeEngine` by the docker command on the node. `chronos`: the shell words that run chronos_cli there."""

    def __init__(self, shell: NodeShell, chronos: str = "chronos_cli") -> None:
        self._shell = shell
        self._chronos = chronos

    def container(self, id: str) -> dict[str, Any] | None:
        status, output, errors = self._run("inspect", "--type=container", id)
        if status != 0:
            if "No such" in errors:
                return None
            raise BackendError(f"docker on the node: {errors.strip()[:200]}")
        found: list[dict[str, Any]] = json.loads(output)
        return found[0] if found else None

    def kill(self, id: str) -> None:
        status, _, errors = self._run("kill", id)
        if status != 0 and "No such" not in errors and "is not running" not in errors:
            raise BackendError(f"docker on the node: {errors.strip()[:200]}")

    def leave_swarm(self) -> None:
        status, _, errors = self._run("swarm", "leave", "--force")
        if status != 0 and "not part of a swarm" not in errors:
            raise BackendError(f"docker on the node: {errors.strip()[:200]}")

    def container_log(self, id: str, since: float = 0.0) -> bytes:
        status, output, errors = self._run("logs", "--timestamps", "--since", _moment(since), id)
        if status != 0:
            raise BackendError(f"docker on the node: {errors.strip()[:200]}")
        return b"".join(_frames(output, errors))

    def kept_log(self, id: str, since: float = 0.0) -> bytes | None:
        place = f"\"$(docker info --format '{{{{.DockerRootDir}}}}')/{KEPT}/\"{shlex.quote(id)}"
        read = 'cd "$1" && cat /dev/null $(ls | sort -n)'
        script = f"d={place}; for as in '' 'sudo -n'; do $as sh -c '{read}' sh \"$d\" 2>/dev/null && exit; done; exit 1"
        status, output, _ = self._sh(script)
        return b"".join(_kept_frames(output, _moment(since))) if status == 0 else None

    def started(self) -> float | None:
        age = "ps -o etimes= -C dockerd | sort -n | head -n 1"
        status, output, _ = self._sh(f'age=$({age}); [ -n "$age" ] && echo $(($(date +%s) - age))')
        return float(output) if status == 0 and output.strip() else None

    def newest_manifest(self, id: str, path: str) -> tuple[int, str, str] | None:
        found = self._on_node(id, path)
        if found is None:
            return None
        find = (
            f"timeout 10 find {found.place} -mindepth 2 -maxdepth 2 -type f "
            f"-path '*/step-????????????/{layout.MANIFEST}' "
            "-printf '%C@ %p\\n' 2>/dev/null | sort -k 2 | tail -n 1"
        )
        _, output, _ = self._sh(found.command(find))
        at, _, file = output.removesuffix("\n").partition(" ")
        step = layout.step_of(os.path.basename(os.path.dirname(file)))
        try:
            return None if step is None else (step, _moment(float(at)), file)
        except ValueError:
            return None

    def manifest(self, id: str, file: str) -> bytes:
        found = self._on_node(id, file)
        user = None if found is None else found.user
        return self._content(_Place("/", shlex.quote(file), user), f"bs=1M count={_MANIFEST_MIB}")

    def upload_status(self, id: str, path: str) -> bytes:
        found = self._on_node(id, f"{path}/{DIRECTORY}/{FILE}")
        return b"" if found is None else self._content(found, "bs=64k count=1")

    def _content(self, file: _Place, most: str) -> bytes:
        """What is in a file, up to so much. No link is followed, and nothing but a file is opened: the job wrote there
        what it liked."""
        read = f"dd if={file.place} iflag=nofollow,nonblock,fullblock {most} status=none 2>/dev/null"
        _, output, _ = self._sh(file.command(f"timeout 10 {read} | base64 -w 0"))
        try:
            return base64.b64decode(output)
        except ValueError:
            return b""

    @property
    def checkpoints(self) -> CheckpointPrograms:
        return CheckpointPrograms(self._shell, self._chronos)

    def put(self, id: str, path: str, text: str) -> None:
        self._put(id, path, f"printf '%s\\n' {shlex.quote(text)}")

    def put_deadline(self, id: str, path: str, seconds: float) -> None:
        # The uptime is that clock's.
        self._put(id, path, f"""awk -v left={seconds:.3f} '{{printf "%.3f\\n", $1 + left}}' /proc/uptime""")

    def _put(self, id: str, path: str, command: str) -> None:
        """What the command prints, as a file of the container."""
        directory, name = os.path.split(path)
        if directory == PRIVATE:
            self._put_private(id, path, command)
            return
        script = (
            f'd=$(mktemp -d) && {command} > "$d/{name}" && chmod 644 "$d/{name}" && '
            f'docker cp "$d/{name}" {shlex.quote(f"{id}:{directory}/")}; s=$?; rm -rf "$d"; exit $s'
        )
        status, _, errors = self._sh(script)
        if status != 0:
            raise BackendError(f"docker on the node: {errors.strip()[:200]}")

    def _put_private(self, id: str, path: str, command: str) -> None:
        """The engine does not know the root that a program of the node has. In its /dev only root makes files."""
        script = (
            'pid=$(docker inspect --format "{{.State.Pid}}" "$1") && [ "$pid" -gt 0 ] && at="/proc/$pid/root$2" && '
            f'mkdir -p "$(dirname "$at")" && {command} > "$at.new" && chmod 644 "$at.new" && mv "$at.new" "$at"'
        )
        status, _, errors = self._sh(_as_root(script, id, path))
        if status != 0:
            raise BackendError(f"nothing can be told to the program on its node: {errors.strip()[:200]}")

    def programs(self, image: str, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        script = (
            'r=$(docker info --format "{{with index .Runtimes .DefaultRuntime}}{{.Path}}{{end}}") || exit 3; '
            'case "$r" in */chronos-runtime) ;; *) exit 4 ;; esac; '
            'if [ -n "$1" ] && ! docker image inspect "$1" >/dev/null 2>&1; then '
            'docker image inspect "$4" >/dev/null 2>&1 && exit 7; exit 5; fi; "$r" "$2" "$3" || exit 6'
        )
        status, output, errors = self._sh(_as_root(script, image, PROGRAMS, json.dumps(asked), host_image.TAG))
        if why := _WHY_NO_PROGRAMS.get(status):
            raise BackendRefused(why)
        try:
            found: Mapping[str, Any] = json.loads(output)
            return found
        except ValueError:
            raise BackendError(f"docker on the node: {errors.strip()[:200] or f'exit code {status}'}") from None

    def make_place(self, uid: int) -> None:
        # As `chronos.host_program` does: only root makes files in the first directory, so what is there is no link.
        script = (
            'umask 022; mkdir -p "$1" && chmod 711 "$(dirname "$1")" "$1" && '
            '{ [ -d "$1/$2" ] || mkdir -m 700 "$1/$2"; } && '
            'if [ "$(stat -c %u "$1/$2")" = 0 ]; then g=$(id -g "$2") && chown "$2:$g" "$1/$2"; fi'
        )
        status, _, errors = self._sh(_as_root(script, FILES, str(uid)))
        if status != 0:
            raise BackendError(f"no directory for programs can be made on the node: {errors.strip()[:200]}")

    def remove_program(self, uid: int, job_uid: str) -> None:
        place = shlex.quote(f"{FILES}/{uid}/{job_uid}")
        status, _, errors = self._sh(_as_user(uid, f"timeout 600 rm -rf -- {place}"))
        if status != 0:
            raise BackendError(f"what a program left cannot be deleted: {errors.strip()[:200]}")

    def written(self, id: str, path: str) -> str | None:
        found = self._on_node(id, path)
        if found is None:
            return None
        # The last change (%C): a program cannot set it back.
        find = f"timeout 10 find {found.place} -type f -printf '%C@\\n' 2>/dev/null | sort -n | tail -n 1"
        status, output, _ = self._sh(found.command(f"[ -r {found.root} ] && {find}"))
        if status != 0:
            return None
        return _moment(float(output)) if output.strip() else ""

    def _on_node(self, id: str, path: str) -> _Place | None:
        """Where a path of the container is on the node."""
        container = self.container(id) or {}
        user = _program_of(container)
        if user is not None:
            return _Place("/", shlex.quote(path), user)
        mounts = sorted(container.get("Mounts") or (), key=lambda mount: -len(mount["Destination"]))
        below = (m for m in mounts if f"{path}/".startswith(f"{m['Destination'].rstrip('/')}/"))
        mount = next(below, None)
        if mount is None:
            return None
        place = mount["Source"] + path[len(mount["Destination"].rstrip("/")) :]
        return _Place(shlex.quote(mount["Source"]), shlex.quote(place))

    def put_call(self, name: str, archive: Iterator[bytes]) -> str:
        if not isinstance(self._shell, Feeds):
            raise BackendError("nothing can be sent through this shell")
        # Nobody on the node but root comes near it; the container sees the directory alone, whoever it runs as.
        script = (
            f'umask 077; {_CALLS} && mkdir -p "$d" && chmod 700 "$d" && n="$d/$1" && rm -rf "$n" "$n.new" && '
            'mkdir "$n.new" && tar -xf - -C "$n.new" && chmod -R a+rX "$n.new" && chmod 777 "$n.new" && '
            'mv "$n.new" "$n" && echo "$n"'
        )
        try:
            status, output, errors = self._shell.feed(_as_root(script, name), archive)
        except ChronosError as error:
            raise BackendError(str(error), hint=error.hint) from None
        if status != 0 or not output.startswith("/"):
            raise BackendError(f"a call does not get to its node: {(errors.strip() or 'no word why')[:200]}")
        return output.strip()

    def channel(self) -> socket.socket:
        """See `reach.OpensChannels`."""
        if not isinstance(self._shell, Relays):
            raise BackendError("nobody can be talked to through this shell")
        try:
            # What goes wrong there before it speaks is told too.
            return self._shell.relay(f"{self._chronos} channel 2>&1")
        except ChronosError as error:
            raise BackendError(str(error), hint=error.hint) from None

    def call_file(self, name: str, file: str) -> tuple[int, Iterator[bytes]] | None:
        # What it left is not followed anywhere: a container may make links, and this is root.
        script = f'{_CALLS}; f="$d/$1/$2"; [ -f "$f" ] && [ ! -L "$f" ] || exit 3; stat -c %s "$f"'
        status, output, errors = self._sh(_as_root(script, name, file))
        if status == 3:
            return None
        if status != 0 or not output.strip().isdigit():
            raise BackendError(f"what a call left cannot be read: {errors.strip()[:200]}")
        return int(output), self._file_chunks(name, file, int(output))

    def _file_chunks(self, name: str, file: str, size: int) -> Iterator[bytes]:
        script = f'{_CALLS}; dd if="$d/$1/$2" bs=1048576 skip="$3" count={_PART} 2>/dev/null | base64'
        for part in range(0, -(-size // 2**20), _PART):
            status, output, errors = self._sh(_as_root(script, name, file, str(part)))
            if status != 0:
                raise BackendError(f"what a call left cannot be read: {errors.strip()[:200]}")
            yield base64.b64decode(output)

    def remove_call(self, name: str) -> None:
        status, _, errors = self._sh(_as_root(f'{_CALLS}; rm -rf "$d/$1" "$d/$1.new"', name))
        if status != 0:
            raise BackendError(f"what a call left cannot be deleted: {errors.strip()[:200]}")

    def _run(self, *words: str) -> tuple[int, str, str]:
        return self._sh(shlex.join(["docker", *words]))

    def _sh(self, command: str) -> tuple[int, str, str]:
        try:
            return self._shell.run(command, _SECONDS)
        except ChronosError as error:
            raise BackendError(str(error), hint=error.hint) from None


class _Place(NamedTuple):
    """The mount that a path lies on, and the path, both as the node has them and quoted; whom it is looked at as."""

    root: str
    place: str
    user: int | None = None

    def command(self, command: str) -> str:
        return command if self.user is None else _as_user(self.user, command)


def _program_of(container: Mapping[str, Any]) -> int | None:
    """Whom a container runs as that has its node's own root. Said by the variable that the daemon writes to every
    container: a label might be the image's, and so of whoever made that."""
    for variable in (container.get("Config") or {}).get("Env") or ():
        name, _, value = variable.partition("=")
        if name == SUBMITTER_VARIABLE and value.startswith(HOST_PREFIX):
            return int(value.rpartition(":")[2])
    return None


def _as_user(uid: int, command: str) -> str:
    """A shell command that runs as that user: paths that they may rename lead nowhere else."""
    return _as_root(
        'g=$(id -g "$1") && exec setpriv --reuid="$1" --regid="$g" --init-groups sh -c "$2"', str(uid), command
    )


_WHY_NO_PROGRAMS = {
    3: "its engine does not answer",
    4: "chronos-runtime is not its engine's default runtime (scripts/join-swarm.sh)",
    5: f"it lacks the host image: cumulus cluster image push {host_image.NAME}",
    6: "its chronos-runtime is older than this version (scripts/join-swarm.sh)",
    7: f"what it has as {host_image.TAG} is another image, or its engine has other ids, as with containerd's store",
}
"""By exit codes of the script."""


def _as_root(script: str, *arguments: str) -> str:
    """A shell command that runs the script as root, with sudo where that takes it."""
    words = shlex.join(["sh", "-c", script, "sh", *arguments])
    return f'if [ "$(id -u)" = 0 ]; then {words}; else sudo -n {words}; fi'


def _frames(output: str, errors: str) -> Iterator[bytes]:
    """Both streams as the API gives them, in the order of their times."""
    # What a program wrote may hold other signs that Python takes for the end of a line.
    lines = [(line, 1) for line in re.findall(r"[^\n]*\n|[^\n]+", output)]
    lines += [(line, 2) for line in re.findall(r"[^\n]*\n|[^\n]+", errors)]
    for line, stream in sorted(lines, key=lambda pair: pair[0].partition(" ")[0]):
        yield frame(stream, line.encode())


def _kept_frames(lines: str, since: str) -> Iterator[bytes]:
    """The files of the engine's log driver json-file; a last line that was cut off is dropped."""
    for line in lines.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            # With nine digits, as the engine itself gives times: they are compared as texts.
            seconds, _, fraction = entry["time"].removesuffix("Z").partition(".")
            at = f"{seconds}.{fraction:<09}Z"
            if at >= since:
                yield frame(2 if entry["stream"] == "stderr" else 1, f"{at} {entry['log']}".encode())


def _moment(since_epoch: float) -> str:
    return timestamp(datetime.fromtimestamp(since_epoch, UTC))
