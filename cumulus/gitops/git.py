"""A git repository, read with the git program: a bare, partial clone, from which trees and files are taken one by one.

Nothing is ever checked out, so there are no hooks, filters, symbolic links and submodules to fall for. git sees neither
its user's configuration nor the daemon's environment, asks nobody for a password, and goes only where it is told.
"""

from __future__ import annotations

import base64
import os
import re
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cumulus.clock import timestamp
from cumulus.gitops import addresses
from cumulus.gitops.directory import MOST_BYTES, MOST_DEPTH, MOST_FILE_BYTES, MOST_FILES, SUFFIXES
from cumulus.gitops.errors import SourceUnreadable
from cumulus.gitops.programs import FinishedProgram, Limits, OverLimit, run
from cumulus.lib import versions
from cumulus.lib.printable import one_line
from cumulus.lib.truncate import truncate
from cumulus.lib.unix_user import UnixUser
from cumulus.resources.git_url import GitUrl
from cumulus.resources.reasons import SourceReason
from cumulus.resources.source import GitSource, Revision

MOST_PACKS = 60
"""A clone with more is made anew: nothing else tidies it."""
_LONGEST_SUBJECT = 200
_READER = "reader"
"""A repository within the clone that has its objects and knows no server: what a clone lacks is missing there, where
git would otherwise go and fetch it, one by one."""
_UPLOAD_PACK = "--upload-pack=git-upload-pack"
"""Of several that the configuration names git takes the first, and so not one of ours."""
_FETCH = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-gc", _UPLOAD_PACK)
_ALL = ("+HEAD:refs/cumulus/HEAD", "+refs/heads/*:refs/cumulus/refs/heads/*", "+refs/tags/*:refs/cumulus/refs/tags/*")
_SETTINGS = {
    "core.alternateRefsCommand": "true", "gpg.program": "gpg", "gpg.openpgp.program": "gpg",
    "gpg.x509.program": "gpgsm", "gpg.ssh.program": "ssh-keygen",
}  # fmt: skip
_PROGRAMS = tuple(word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}"))
"""The clone is the user's, who could name others there: they would run outside of any lease."""
_OWN_LINE = re.compile(
    r"\[core\]|\[extensions\]|\[remote \"origin\"\]|repositoryformatversion = \d|filemode = \w+|bare = true|"
    r"objectformat = \w+|partialclone = origin|promisor = true|partialclonefilter = blob:none|"
    r"fetch = \+refs/heads/\*:refs/remotes/origin/\*",
    re.IGNORECASE,
)
"""Of the configuration that git writes here."""
_MOST_CONFIG = 2**16
_NO_SUCH_REF = 2
"""git ls-remote --exit-code."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a server asks for, from a secret. Empty where there is none."""

    username: str = ""
    password: str = field(default="", repr=False)
    key: bytes = field(default=b"", repr=False)
    known_hosts: bytes = b""
    authority: bytes = b""


class TreeFile(NamedTuple):
    """A file of a tree: its path within the tree that was asked for, and git's name of what it holds."""

    path: str
    oid: str


class Repository:
    """A clone of `url` in `directory`, which need not be there. All of it runs as `user`, this process's own for None.
    Every method raises SourceUnreadable."""

    def __init__(self, directory: Path, url: GitUrl, user: UnixUser | None, limits: Limits = Limits()) -> None:
        self._directory = directory
        self._url = url
        self._user = user
        self._limits = limits

    def look(self, wanted: GitSource, credentials: Credentials) -> tuple[str, str]:
        """The full name of what is wanted (a ref; a commit's own name), and which commit, or tag object, it is now on
        the server. For a commit nobody is asked."""
        if wanted.commit is not None:
            return wanted.commit, wanted.commit
        if wanted.semver is not None:
            found = self._remote(credentials, ["--tags"], "refs/tags/*", wanted)
            try:
                tag = versions.highest((name.removeprefix("refs/tags/") for name in found), wanted.semver)
            except ValueError as error:
                raise _no_ref(str(error)) from None
            if tag is None:
                raise _no_ref(f"no tag is a version in the range {wanted.semver}")
            return f"refs/tags/{tag}", found[f"refs/tags/{tag}"]
        ref = _ref(wanted)
        found = self._remote(credentials, [], ref, wanted)
        if ref not in found:
            raise _no_ref(f"there is no {_said(wanted)} in {self._url}")
        return ref, found[ref]

    def fetch(self, ref: str, oid: str, credentials: Credentials) -> str:
        """Have the commit that `ref` is now, most likely `oid`, without the contents of files: its name."""
        self._prepare()
        found = self._commit(oid)
        if found.code:
            local = f"refs/cumulus/{ref}"
            fetched = self._over_network(
                ["fetch", *_FETCH, "--filter=blob:none", "origin", f"+{ref}:{local}"], credentials, fails=ref == oid
            )
            if fetched.code:
                # A commit by its name alone, from a server that gives none.
                self._over_network(["fetch", *_FETCH, "--filter=blob:none", "origin", *_ALL], credentials)
            found = self._commit(oid)
            if found.code and not self._has(oid):
                if ref == oid:
                    raise _no_ref(f"there is no commit {ref} in {self._url}")
                # It moved on in between.
                oid = self._git(["rev-parse", "--verify", "--quiet", local], where=".").output.decode().strip()
                found = self._commit(oid)
        if found.code:
            raise _no_ref(f"{one_line(ref)} is no commit")
        return found.output.decode().strip()

    def describe(self, commit: str) -> Revision:
        """Who wrote it, when and why; `tree` is that of the root."""
        form = "%H%x00%T%x00%an <%ae>%x00%ct%x00%s"
        shown = self._git(["log", "-1", "--no-show-signature", f"--format={form}", commit, "--"]).output
        name, tree, author, when, subject = (shown.decode("utf-8", "replace").rstrip("\n").split("\0") + [""] * 5)[:5]
        seconds = int(when) if when.isdecimal() and len(when) < 12 else 0
        return Revision(
            revision=name, tree=tree, author=truncate(one_line(author), _LONGEST_SUBJECT),
            subject=truncate(one_line(subject), _LONGEST_SUBJECT),
            time=timestamp(datetime.fromtimestamp(seconds, UTC)),
        )  # fmt: skip

    def trees(self, commit: str, paths: Sequence[str]) -> dict[str, str]:
        """git's name of the directory at each path, "" where the commit has none there; "" is the root."""
        asked = "".join(f"{commit}:{path}\n" for path in paths)
        shown = self._git(["cat-file", "--batch-check=%(objecttype) %(objectname)"], given=asked.encode()).output
        answers = shown.decode("utf-8", "replace").splitlines()
        found = {}
        for path, answer in zip(paths, answers, strict=True):
            type, _, oid = answer.partition(" ")
            found[path] = oid if type == "tree" else ""
        return found

    def descends(self, commit: str, ancestor: str) -> bool:
        """Whether `ancestor` is in the history of `commit`; False also where it is not known any more."""
        return self._git(["merge-base", "--is-ancestor", ancestor, commit], fails=True).code == 0

    def files(self, tree: str, also: str = "", more: tuple[str, ...] = (), below: str = "") -> list[TreeFile]:
        """The manifests below a tree, by path, files whose names end with one of `more`, and the file `also`, whatever
        it is called. Hidden ones (but those named in `more`), symbolic links and submodules are left out, and what is
        not in the folder `below`."""
        found = []
        for entry in self._git(["ls-tree", "-r", "-z", "--full-tree", tree]).output.split(b"\0"):
            about, _, name = entry.partition(b"\t")
            mode, _, rest = about.partition(b" ")
            path = name.decode("utf-8", "replace")
            if not mode or not stat.S_ISREG(int(mode, 8)):
                continue
            if below and not path.startswith(f"{below}/"):
                continue
            hidden = any(part.startswith(".") and part not in more for part in path.split("/"))
            if path != also and (hidden or not path.endswith((*SUFFIXES, *more))):
                continue
            if any(part in ("", ".", "..") for part in path.split("/")):
                # Of a clone that somebody tampered with: git makes no such tree.
                raise SourceUnreadable(SourceReason.INVALID, f"{path!r} is no path of a file")
            if path.count("/") > MOST_DEPTH:
                said = f"{truncate(one_line(path), 80)} is more than {MOST_DEPTH} directories deep"
                raise SourceUnreadable(SourceReason.INVALID, said)
            if not path.isprintable():
                raise SourceUnreadable(SourceReason.INVALID, f"the name of the file {path!r} holds control characters")
            found.append(TreeFile(path, rest.rpartition(b" ")[2].decode()))
        if len(found) > MOST_FILES:
            raise SourceUnreadable(SourceReason.INVALID, f"the path holds more than {MOST_FILES:,} manifests; split it")
        return sorted(found)

    def read(self, files: Sequence[TreeFile], credentials: Credentials) -> dict[str, bytes]:
        """What each file holds, by path. Contents that the clone lacks are fetched, all at once."""
        oids = list(dict.fromkeys(file.oid for file in files))
        sizes = self._sizes(oids)
        if missing := [oid for oid in oids if oid not in sizes]:
            self._fetch_contents(missing, credentials)
            sizes = self._sizes(oids)
        for file in files:
            size = sizes.get(file.oid)
            if size is None:
                raise SourceUnreadable(SourceReason.FETCH_FAILED, f"the server did not send {one_line(file.path)}")
            if size > MOST_FILE_BYTES:
                more = f"{one_line(file.path)} is larger than {MOST_FILE_BYTES // 2**20} MiB; split it"
                raise SourceUnreadable(SourceReason.INVALID, more)
        if sum(sizes[file.oid] for file in files) > MOST_BYTES:
            raise SourceUnreadable(SourceReason.INVALID, f"the manifests have more than {MOST_BYTES // 2**20} MiB")
        held = self._contents(oids)
        return {file.path: held[file.oid] for file in files}

    def have(self, trees: Sequence[str], credentials: Credentials) -> None:
        """Fetch the manifests of these trees, all at once, so that `read` need not."""
        oids: dict[str, None] = {}
        for tree in dict.fromkeys(trees):
            with suppress(SourceUnreadable):
                # What is wrong with a tree is told to whom it concerns.
                oids.update(dict.fromkeys(file.oid for file in self.files(tree)))
        if oids and (missing := sorted(oids.keys() - self._sizes(list(oids)).keys())):
            self._fetch_contents(missing, credentials)

    def verify(self, what: str, keys: Mapping[str, bytes], *, tag: bool) -> None:
        """Raises SourceUnreadable unless the commit, or tag object, is signed by one of the keys: `allowed_signers` for
        SSH, `gpg-keys` for GPG. git's exit code alone says it: its text says good of keys that nobody allowed."""
        with self._private_files(keys) as made:
            options, more = ["-c", "gpg.ssh.allowedSignersFile=/dev/null"], {}
            if "allowed_signers" in made:
                options = ["-c", f"gpg.ssh.allowedSignersFile={made['allowed_signers']}"]
            home = os.path.join(os.path.dirname(next(iter(made.values()))), "gnupg")
            self._run(["mkdir", "-m", "700", home], {})
            more["GNUPGHOME"] = home
            if "gpg-keys" in made:
                self._run(["gpg", "--batch", "--quiet", "--import", made["gpg-keys"]], more)
            options += ["-c", "gpg.minTrustLevel=undefined"]
            found = self._git([*options, "verify-tag" if tag else "verify-commit", what], fails=True, more=more)
        if found.code:
            raise SourceUnreadable(
                SourceReason.NOT_VERIFIED, f"{what[:12]} is not signed with a key of spec.verify.keys",
                hint="sign it (git commit -S), or add the signer's key to the secret",
            )  # fmt: skip

    def drop(self) -> None:
        """Delete the clone; the next fetch makes it anew."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _is_as_made(self) -> bool:
        """Whether the clone's configuration is what git wrote: nothing in it names a program or another place."""
        for place in (self._directory, self._directory / _READER):
            if any(
                os.path.lexists(place / name) for name in ("commondir", "config.worktree", "objects/info/alternates")
            ):
                return False
            try:
                descriptor = os.open(place / "config", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # It is being made.
            except OSError:
                return False
            with open(descriptor, "rb") as file:
                lines = file.read(_MOST_CONFIG).decode("utf-8", "replace").splitlines()
            own = f"url = {self._url}"
            if not all(line.strip() == own or _OWN_LINE.fullmatch(line.strip()) for line in lines if line.strip()):
                return False
        return True

    def _prepare(self) -> None:
        directory = self._directory
        try:
            if (directory / "config").exists() and (directory / _READER / "HEAD").exists():
                packs = len(os.listdir(directory / "objects" / "pack"))
                if packs <= 3 * MOST_PACKS and self._is_as_made():
                    return
                self.drop()
            make_private(directory.parent, self._user)
        except OSError as error:
            raise SourceUnreadable(SourceReason.FETCH_FAILED, f"the clone cannot be kept: {error.strerror}") from None
        self._git(["init", "--quiet", "--bare", "--template=", str(directory / _READER)], where="")
        self._git(["init", "--quiet", "--bare", "--template=", str(directory)], where="")
        self._git(["remote", "add", "origin", str(self._url)], where=".")

    def _fetch_contents(self, oids: Sequence[str], credentials: Credentials) -> None:
        fetched = self._over_network(
            ["-c", "fetch.negotiationAlgorithm=noop", "fetch", *_FETCH, "--filter=blob:none", "--stdin", "origin"],
            credentials, given="".join(f"{oid}\n" for oid in oids).encode(), fails=True,
        )  # fmt: skip
        if fetched.code:
            # An older server, or one behind an sshd that does not hand the protocol's version on, names no objects.
            self._over_network(["fetch", *_FETCH, "--refetch", "--no-filter", "origin", *_ALL], credentials)

    def _commit(self, oid: str) -> FinishedProgram:
        """Prints the commit's name, also where `oid` is a tag's object; fails where the clone does not have it."""
        return self._git(["rev-parse", "--verify", "--quiet", f"{oid}^{{commit}}"], fails=True)

    def _has(self, oid: str) -> bool:
        return self._git(["cat-file", "-e", oid], fails=True).code == 0

    def _sizes(self, oids: Sequence[str]) -> dict[str, int]:
        """Of those that the clone has."""
        asked = "".join(f"{oid}\n" for oid in oids).encode()
        shown = self._git(["cat-file", "--batch-check=%(objectname) %(objecttype) %(objectsize)"], given=asked).output
        rows = (line.split() for line in shown.decode().splitlines())
        return {row[0]: int(row[2]) for row in rows if len(row) == 3 and row[1] == "blob"}

    def _contents(self, oids: Sequence[str]) -> dict[str, bytes]:
        shown = self._git(
            ["cat-file", "--batch"], given="".join(f"{oid}\n" for oid in oids).encode(), output=2 * MOST_BYTES
        ).output
        found, at = {}, 0
        for oid in oids:
            end = shown.index(b"\n", at)
            size = int(shown[at:end].split()[2])
            found[oid] = shown[end + 1 : end + 1 + size]
            at = end + 2 + size
        return found

    def _remote(
        self, credentials: Credentials, options: Sequence[str], pattern: str, wanted: GitSource
    ) -> dict[str, str]:
        """What the server has under the pattern, by full name."""
        found = self._over_network(
            ["ls-remote", "--exit-code", *options, str(self._url), pattern], credentials, where="", fails=True
        )
        if found.code == _NO_SUCH_REF:
            raise _no_ref(f"there is no {_said(wanted)} in {self._url}")
        if found.code:
            raise self._failed(found)
        rows = (line.partition("\t") for line in found.output.decode("utf-8", "replace").splitlines())
        return {name: oid for oid, _, name in rows if not name.endswith("^{}")}

    def _over_network(
        self, arguments: Sequence[str], credentials: Credentials, *, given: bytes = b"", where: str = ".",
        fails: bool = False,
    ) -> FinishedProgram:  # fmt: skip
        files = {"key": credentials.key, "known_hosts": credentials.known_hosts, "ca": credentials.authority}
        with self._private_files({name: content for name, content in files.items() if content}) as made:
            environment = self._network(credentials, made)
            return self._git(arguments, given=given, where=where, fails=fails, more=environment)

    def _network(self, credentials: Credentials, files: Mapping[str, str]) -> dict[str, str]:
        """The variables with which git reaches the server, at an address that was checked and no other."""
        if self._url.scheme == "file":
            return {"GIT_ALLOW_PROTOCOL": "file"}
        address = addresses.resolve(self._url.host, self._url.port)
        if self._url.scheme == "ssh":
            return {"GIT_ALLOW_PROTOCOL": "ssh", "GIT_SSH_COMMAND": self._ssh(address, files), "GIT_SSH_VARIANT": "ssh"}
        settings = {
            "http.followRedirects": "false", "http.sslVerify": "true", "http.proxy": "", "http.lowSpeedLimit": "1000",
            "http.lowSpeedTime": "30",
        }  # fmt: skip
        if not self._url.host.startswith("["):
            # An address in the URL is what curl asks, and it takes no other for it.
            settings["http.curloptResolve"] = f"{self._url.host}:{self._url.port}:{address}"
        if "ca" in files:
            settings["http.sslCAInfo"] = files["ca"]
        if credentials.password:
            pair = f"{credentials.username or 'git'}:{credentials.password}".encode()
            settings["http.extraHeader"] = f"Authorization: Basic {base64.b64encode(pair).decode()}"
        pairs = list(settings.items())
        # In the environment, which no other user can read, and not in the arguments, which all can.
        found = {"GIT_ALLOW_PROTOCOL": "https", "GIT_CONFIG_COUNT": str(len(pairs))}
        for number, (name, value) in enumerate(pairs):
            found |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
        return found

    def _ssh(self, address: str, files: Mapping[str, str]) -> str:
        if "key" not in files or "known_hosts" not in files:
            raise SourceUnreadable(
                SourceReason.CREDENTIALS, "a repository over ssh needs a secret with ssh-privatekey and known_hosts",
                hint=f"ssh-keyscan -p {self._url.port} {self._url.host} shows the host's keys; name the secret in "
                "spec.git.credentials",
            )  # fmt: skip
        alias = self._url.host if self._url.port == 22 else f"[{self._url.host}]:{self._url.port}"
        options = {
            "BatchMode": "yes", "IdentitiesOnly": "yes", "IdentityAgent": "none", "IdentityFile": files["key"],
            "UserKnownHostsFile": files["known_hosts"], "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes", "UpdateHostKeys": "no", "HostName": address, "HostKeyAlias": alias,
            "PermitLocalCommand": "no", "ProxyCommand": "none", "ClearAllForwardings": "yes", "ConnectTimeout": "15",
            "PreferredAuthentications": "publickey", "ServerAliveInterval": "10",
        }  # fmt: skip
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return shlex.join(["ssh", "-F", "/dev/null", *words])

    def _git(
        self, arguments: Sequence[str], *, given: bytes = b"", where: str = _READER, fails: bool = False,
        more: Mapping[str, str] = {}, output: int | None = None,
    ) -> FinishedProgram:  # fmt: skip
        """`where`: the clone's own directory for ".", none for ""."""
        inside = [f"--git-dir={os.path.normpath(self._directory / where)}"] if where else []
        command = [
            "git", "--no-pager", "--no-replace-objects", *inside, "-c", "core.hooksPath=/dev/null", "-c",
            "credential.helper=", "-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "core.fsmonitor=false", "-c",
            "fetch.fsckObjects=true", "-c", "transfer.advertiseSID=false", *_PROGRAMS, *arguments,
        ]  # fmt: skip
        if where and not self._is_as_made():
            self.drop()
            said = "somebody changed the configuration of the clone; it is made anew"
            raise SourceUnreadable(SourceReason.FETCH_FAILED, said)
        environment = {
            "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "/bin/false", "SSH_ASKPASS": "/bin/false",
            "GIT_NO_LAZY_FETCH": "1", "GIT_OPTIONAL_LOCKS": "0", "GIT_ALLOW_PROTOCOL": "none",
            "GIT_LITERAL_PATHSPECS": "1", "GIT_PROTOCOL_FROM_USER": "0", "HOME": "/nonexistent", **more,
        }  # fmt: skip
        if where == _READER:
            environment["GIT_OBJECT_DIRECTORY"] = str(self._directory / "objects")
        finished = self._run(command, environment, given=given, output=output)
        if finished.code and not fails:
            raise self._failed(finished)
        return finished

    def _run(
        self, command: Sequence[str], environment: Mapping[str, str], *, given: bytes = b"", output: int | None = None
    ) -> FinishedProgram:
        limits = self._limits
        if output is not None:
            limits = Limits(limits.seconds, output, limits.file)
        try:
            return run(command, user=self._user, environment=environment, limits=limits, given=given)
        except OverLimit as error:
            raise SourceUnreadable(SourceReason.FETCH_FAILED, str(error)) from None
        except OSError as error:
            raise SourceUnreadable(
                SourceReason.FETCH_FAILED, f"{command[0]} cannot be started: {error.strerror}",
                hint="install it on the daemon's machine",
            ) from None  # fmt: skip

    def _failed(self, finished: FinishedProgram) -> SourceUnreadable:
        """With what git said last: it names host and reason, and nothing of what it was given in the environment."""
        lines = [one_line(line) for line in finished.said.splitlines() if line.strip()]
        told = [line for line in lines if line.startswith(("fatal:", "error:", "remote:", "Host key"))] or lines
        said = truncate("; ".join(told[-3:]) or f"exit code {finished.code}")
        # Whose files they are decides what git would run there, so nothing says that it does not matter.
        another = "dubious ownership" in said
        hint = "it belongs to another user: make the Source as that user, or read it over ssh or https"
        return SourceUnreadable(
            SourceReason.FETCH_FAILED, f"git cannot read {self._url}: {said}", hint=hint if another else None
        )

    @contextmanager
    def _private_files(self, contents: Mapping[str, bytes]) -> Iterator[dict[str, str]]:
        """Files that only `user` can read, for as long as a program needs them."""
        if not contents:
            yield {}
            return
        with tempfile.TemporaryDirectory(prefix="cumulus-git-", ignore_cleanup_errors=True) as directory:
            found = {}
            for name, content in contents.items():
                path = os.path.join(directory, name)
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(content if content.endswith(b"\n") else content + b"\n")
                    if self._user is not None and self._user.uid != os.geteuid():
                        os.fchown(file.fileno(), self._user.uid, self._user.gid)
                found[name] = path
            if self._user is not None and self._user.uid != os.geteuid():
                os.chown(directory, self._user.uid, self._user.gid)
            yield found


def make_private(directory: Path, user: UnixUser | None) -> None:
    """A directory that only `user` can enter, below one that everybody passes through. Raises OSError."""
    parent = directory.parent
    parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    if directory.is_dir():
        return
    directory.mkdir(mode=0o700, exist_ok=True)
    if user is not None and user.uid != os.geteuid():
        os.chown(directory, user.uid, user.gid)


def _ref(wanted: GitSource) -> str:
    if wanted.tag is not None:
        return f"refs/tags/{wanted.tag}"
    return "HEAD" if wanted.branch is None else f"refs/heads/{wanted.branch}"


def _said(wanted: GitSource) -> str:
    for name in ("branch", "tag", "semver"):
        if getattr(wanted, name) is not None:
            return f"{'tag in the range' if name == 'semver' else name} {getattr(wanted, name)}"
    return "default branch"


def _no_ref(message: str) -> SourceUnreadable:
    return SourceUnreadable(SourceReason.REF_NOT_FOUND, message)
