"""Power cuts: what a real writer asked of the kernel is recorded, then replayed with unsynced parts lost.

    strace -> Call (in the order of their effects) -> Disk.apply -> Disk.materialise: files as a cut leaves them

The model is stricter than any file system is known to be: a write counts only once its file was synced after it, a
name only once its directory was, and of everything else any part may be lost, also single sectors of a write.
A directory's changes are kept in their order. Memory maps are not seen: SQLite's -shm, which no one needs after a cut.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512

_CALLS = (
    "openat,open,creat,write,writev,pwrite64,pwritev,ftruncate,truncate,fsync,fdatasync,rename,renameat,renameat2,"
    "link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,symlink,symlinkat,chdir,sendfile,copy_file_range,fallocate"
)
_LINE = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)$")
_RESULT = re.compile(r"^(.*)\) += (.*)$")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_QUOTED_NAME = re.compile(r"<((?:\\x[0-9a-f]{2})+)>")
_FD = re.compile(r"^(\d+|AT_FDCWD)<(.*?)>(?=,|$)")
_SAYING = "1<pipe:"
_UNSEEN = ("-shm",)


@dataclass(frozen=True)
class Call:
    """One system call that did something below the root, or a line that the writer said (`said`)."""

    name: str
    path: str = ""
    other: str = ""
    """The second path of a link or rename; the target of a symbolic link."""
    data: bytes = b""
    offset: int | None = None
    begun: int = 0
    """For a sync: how many calls had been done when it began; it covers these."""


def available() -> str:
    """Why recording is not possible here; "" where it is."""
    if shutil.which("strace") is None:
        return "LEFT OUT: power cuts cannot be simulated without strace (apt-get install strace)"
    probe = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    return "" if probe.returncode == 0 else f"LEFT OUT: strace may trace nothing here: {probe.stderr.strip()}"


def record(root: Path, command: Sequence[str], trace: Path) -> list[Call]:
    """Run the command to its end under strace; what it and its children did below `root`, and said on stdout."""
    strace = ["strace", "-f", "-y", "-xx", "-s", "10000000", "-o", str(trace), "-e", f"trace={_CALLS}"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*strace, *command], capture_output=True, text=True, timeout=380, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return list(_parse(trace.read_text(errors="replace").splitlines(), str(root)))


def _parse(lines: Sequence[str], root: str) -> Iterator[Call]:
    begun: dict[str, tuple[str, int]] = {}
    directories: dict[str, str] = {}
    count = 0
    for line in lines:
        match = _LINE.match(_QUOTED_NAME.sub(lambda quoted: f"<{_text(quoted.group(1))}>", line))
        if match is None:
            continue
        pid, name, rest = match.groups()
        start = count
        if rest.endswith("<unfinished ...>"):
            begun[pid] = rest.removesuffix("<unfinished ...>"), count
            # What is said may be heard from here on, though nothing else has happened yet.
            if name == "write" and rest.startswith(_SAYING):
                count += 1
                yield Call("said", data=_bytes(rest))
            continue
        if " resumed>" in line.split("(", 1)[0]:
            rest, start = begun[pid][0] + rest, begun.pop(pid)[1]
            if name == "write" and rest.startswith(_SAYING):
                continue
        ended = _RESULT.match(rest)
        if ended is None or ended.group(2).startswith(("-1", "?")):
            continue
        arguments, result = ended.groups()
        if name == "chdir":
            directories[pid] = _paths(arguments)[0]
            continue
        for call in _calls(name, arguments, result, directories.get(pid, ""), start):
            if call.name == "said" or f"{call.path}/".startswith(f"{root}/"):
                count += 1
                yield call


def _calls(name: str, arguments: str, result: str, cwd: str, begun: int) -> Iterator[Call]:
    arguments = arguments.strip()
    fd = _FD.match(arguments)
    here = fd.group(2) if fd else ""
    if name == "write" and arguments.startswith(_SAYING):
        yield Call("said", data=_bytes(arguments))
        return
    if fd is not None and fd.group(1) != "AT_FDCWD" and name in ("fsync", "fdatasync"):
        yield Call("sync", here, begun=begun)
    elif fd is not None and name in ("write", "pwrite64"):
        written = int(result.split()[0])
        offset = int(arguments.rsplit(",", 1)[1]) if name == "pwrite64" else None
        yield Call("write", here, data=_bytes(arguments)[:written], offset=offset)
    elif name == "ftruncate":
        yield Call("truncate", here, offset=int(arguments.rsplit(",", 1)[1]))
    elif name in ("openat", "open", "creat"):
        path = _absolute(arguments, cwd)[0]
        if "O_CREAT" in arguments or name == "creat":
            yield Call("create", path)
        if "O_TRUNC" in arguments or name == "creat":
            yield Call("truncate", path, offset=0)
    elif name in ("mkdir", "mkdirat", "rmdir", "unlink", "unlinkat"):
        yield Call("mkdir" if name.startswith("mk") else "unlink", _absolute(arguments, cwd)[0])
    elif name in ("rename", "renameat", "renameat2", "link", "linkat"):
        first, second = _absolute(arguments, cwd)
        yield Call("rename" if name.startswith("rename") else "link", first, second)
    elif name in ("symlink", "symlinkat"):
        target = _paths(arguments)[0]
        yield Call("symlink", _absolute(arguments, cwd)[1], target)
    else:
        path = here or (_paths(arguments) or [""])[0]
        yield Call("unknown", path, name)


def _absolute(arguments: str, cwd: str) -> list[str]:
    """The paths of a call. A relative one belongs to the directory that stands before it, else to the process's."""
    found = []
    for match in _STRING.finditer(arguments):
        path = _text(match.group(1))
        before = re.search(r"<([^<>]*)>, $", arguments[: match.start()])
        found.append(os.path.normpath(os.path.join(before.group(1) if before else cwd, path)))
    return found


def _paths(arguments: str) -> list[str]:
    return [_text(match.group(1)) for match in _STRING.finditer(arguments)]


def _bytes(arguments: str) -> bytes:
    match = _STRING.search(arguments)
    return bytes.fromhex(match.group(1).replace("\\x", "")) if match else b""


def _text(quoted: str) -> str:
    return os.fsdecode(bytes.fromhex(quoted.replace("\\x", "")))


@dataclass
class _Node:
    """A file, directory or symbolic link: all that was done to it, and how much of that is durable."""

    kind: str
    done: list[tuple[int, str, object, object]] = field(default_factory=list)
    """(time, verb, …): write offset data, truncate size; set name node, unset name, move (old, new) node."""
    synced: int = 0
    target: str = ""


class Disk:
    """The tree below `root`, which is there and empty, and durable, at the beginning."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._top = _Node("dir")
        self._time = 0

    def apply(self, call: Call) -> None:
        """Do what the call did."""
        self._time += 1
        match call.name:
            case "said":
                return
            case "sync":
                node = self._find(call.path)
                if node is not None:
                    covered = sum(1 for time, *_ in node.done if time <= call.begun)
                    node.synced = max(node.synced, covered)
            case "write" | "truncate":
                node = self._find(call.path)
                if node is not None:  # else removed while it was open
                    offset = call.offset if call.offset is not None else len(_content(node.done))
                    node.done.append((self._time, call.name, offset, call.data))
            case "create" | "mkdir" | "symlink":
                if self._find(call.path) is None:
                    kind = {"create": "file", "mkdir": "dir", "symlink": "link"}[call.name]
                    self._enter(call.path, _Node(kind, target=call.other))
            case "link":
                found = self._find(call.path)
                assert found is not None
                self._enter(call.other, found)
            case "unlink":
                parent, name = self._parent(call.path)
                parent.done.append((self._time, "unset", name, None))
            case "rename":
                self._rename(call)
            case _:
                raise AssertionError(f"a call that this model does not know: {call}")

    def materialise(self, rng: random.Random | None = None) -> None:
        """Make the root what a cut now might leave of it; with no `rng`, what the kernel has now."""
        shutil.rmtree(self._root, ignore_errors=True)
        self._write(self._top, self._root, rng)

    def _write(self, node: _Node, path: str, rng: random.Random | None) -> None:
        if node.kind == "link":
            os.symlink(node.target, path)
        elif node.kind == "file":
            with open(path, "wb") as file:
                file.write(_content(node.done if rng is None else _cut(node, rng)))
        else:
            os.mkdir(path, 0o700)
            kept = node.done if rng is None else node.done[: _how_many(node, rng)]
            for name, child in _entries(kept).items():
                if not name.endswith(_UNSEEN):
                    self._write(child, os.path.join(path, name), rng)

    def _rename(self, call: Call) -> None:
        found = self._find(call.path)
        assert found is not None
        before, old = self._parent(call.path)
        after, new = self._parent(call.other)
        if before is after:
            before.done.append((self._time, "move", (old, new), found))
        else:
            # Two changes, of which a cut may keep either, both or none.
            after.done.append((self._time, "set", new, found))
            before.done.append((self._time, "unset", old, None))

    def _enter(self, path: str, node: _Node) -> None:
        parent, name = self._parent(path)
        parent.done.append((self._time, "set", name, node))

    def _parent(self, path: str) -> tuple[_Node, str]:
        directory, name = os.path.split(path)
        parent = self._find(directory)
        assert parent is not None, f"{directory} is not there"
        return parent, name

    def _find(self, path: str) -> _Node | None:
        node: _Node | None = self._top
        for name in path[len(self._root) :].split("/"):
            if name and node is not None:
                node = _entries(node.done).get(name)
        return node


def _entries(done: Sequence[tuple[int, str, object, object]]) -> dict[str, _Node]:
    names: dict[str, _Node] = {}
    for _, verb, name, node in done:
        if verb == "unset":
            names.pop(str(name), None)
        elif verb == "set" and isinstance(node, _Node):
            names[str(name)] = node
        elif isinstance(name, tuple) and isinstance(node, _Node):
            names.pop(name[0], None)
            names[name[1]] = node
    return names


def _content(done: Sequence[tuple[int, str, object, object]]) -> bytes:
    content = bytearray()
    for _, verb, offset, data in done:
        assert isinstance(offset, int)
        if verb == "truncate":
            del content[offset:]
            content.extend(bytes(offset - len(content)))
        elif isinstance(data, bytes):
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data
    return bytes(content)


def _how_many(node: _Node, rng: random.Random) -> int:
    """Of a directory's changes: those synced, and some that follow."""
    return rng.choice((node.synced, len(node.done), rng.randint(node.synced, len(node.done))))


def _cut(node: _Node, rng: random.Random) -> list[tuple[int, str, object, object]]:
    """What is left of a file's changes: those synced, and any of the others, whole or by sectors."""
    kept = list(node.done[: node.synced])
    loss = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
    for change in node.done[node.synced :]:
        time, verb, offset, data = change
        if verb == "truncate" or not isinstance(data, bytes) or rng.random() < 0.5:
            if rng.random() >= loss:
                kept.append(change)
            continue
        assert isinstance(offset, int)
        for start in range(offset - offset % SECTOR, offset + len(data), SECTOR):
            first, last = max(start, offset), min(start + SECTOR, offset + len(data))
            if rng.random() >= loss:
                kept.append((time, verb, first, data[first - offset : last - offset]))
    return kept
