"""The supervisor's part in checkpoints beyond the node: starts the uploader, and has them fetched before the program.
As a program, `uploading.py DIRECTORY` starts the uploader of a run whose own was killed.

The uploader is no descendant of the supervisor, holds no lease and runs as the job's user. It gets the daemon's keys,
or those of the job's secret, on its standard input: they are on no disk, and neither the program nor its user sees the
daemon's. That input ends with the supervisor, after which the uploader copies what is left. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn

if __name__ == "__main__":
    # Run by path, as the supervisor is.
    sys.path[0:0] = [os.path.abspath(__file__ + "/../../../..")]

from cumulus.backends.process import layout
from cumulus.backends.process.launch import StartFailed, StartUnreachable
from cumulus.backends.rundir.documents import read_document
from cumulus.backends.rundir.layout import run_name
from cumulus.backends.rundir.uploading import ENVIRONMENT, Beyond, NoKeys, taken_message
from cumulus.checkpoint.variables import REPLICAS
from cumulus.lib.unix_user import UnixUser
from cumulus.secrets import SecretStore
from cumulus.uploader import here
from cumulus.uploader.config import Config

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../uploader/__main__.py")
NOTE = 3
"""The descriptor at which an uploader finds where to note that it has copied all."""
_OWN = ("PATH", "HOME", "LD_LIBRARY_PATH")
_LOOK = 0.2
_LINGER = 3000.0
"""Seconds after the run for which an uploader tries: then the daemon starts another, with the keys of then. They may
have been renewed."""
_CHECK = 10.0
"""Seconds that a place has to answer where nothing is to be fetched: the lease runs meanwhile."""


class Uploading:
    """Of one run, as its spec.json says. `variables`: this process's environment."""

    def __init__(self, spec: Mapping[str, Any], variables: Mapping[str, str]) -> None:
        self._spec = spec
        self._variables = variables
        self._asked: Mapping[str, Any] = spec["checkpoint"]
        self._input = -1
        """What keeps the uploader waiting for more: closed when this process ends, however it does."""
        self._told: Config | None = None

    def start(self) -> None:
        """Start the uploader, unless another replica of this node does. Raises OSError, StartFailed."""
        if self._spec["replica"] != 0:
            return
        config = self.follower()
        readable, self._input = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if child == 0:
            self._detach("run", self._asked["path"], readable)
        os.waitpid(child, 0)
        os.close(readable)
        os.write(self._input, config.encode())
        self._told = config

    def renew(self) -> None:
        """Tell the uploader the keys of now, where the secret has others than it was told."""
        if self._input < 0:
            return
        # Somebody may be about to replace the secret, and an uploader that was killed reads nothing.
        with contextlib.suppress(StartFailed, OSError):
            config = self.follower()
            if config != self._told:
                os.write(self._input, config.encode())
                self._told = config

    def prepare(self, check: Callable[[], None], say: Callable[[str], None]) -> None:
        """Have the newest checkpoint on this node before the program starts. What `check` raises ends it; `say` gets
        lines for the log. Raises StartFailed, StartUnreachable."""
        path = self._asked["path"]
        config = self._config(Beyond.own)
        if self._spec["attempt"] == 1:
            try:
                answer = self._ask(config, check, "check", path, patience=_CHECK)
            except StartUnreachable:
                answer = {}  # It is asked for nothing yet.
            if answer.get("step") is not None and self._spec["replica"] == 0:
                raise StartFailed(taken_message(config.uri, answer["step"]))
        else:
            since = self._here_since()
            # Without another process: it would lie between the last step of one lease and the first of the next.
            step = here.step_since(path, since, config.user, check)
            answer = {"step": step} if step is not None else self._ask(config, check, "restore", path, str(since))
        if self._asked["after_uri"] and answer.get("step") is None:
            config = self._config(Beyond.other)
            answer = self._ask(config, check, "adopt", path, self._asked["after"])
        for refused in answer.get("refused", ()):
            say(f"cumulus: {refused}")
        if answer.get("restored"):
            say(f"cumulus: fetched the checkpoint of step {answer['step']} from {config.uri}")

    def follower(self) -> Config:
        """Of an uploader that is started now. Raises StartFailed."""
        return replace(self._config(Beyond.own), linger=_LINGER)

    def _config(self, of: Callable[[Beyond], Config]) -> Config:
        spec, asked = self._spec, self._asked
        place = Beyond(
            spec["namespace"], spec["job_uid"], asked["uri"], asked["credentials"], int(asked["keep"]),
            asked["after_uri"], asked["after_uid"], SecretStore(spec["secrets_root"]), self._variables,
            UnixUser.read(spec.get("user")),
        )  # fmt: skip
        try:
            return of(place)
        except NoKeys as error:
            raise StartFailed(str(error)) from None

    def _here_since(self) -> int:
        """The first of the attempts that all ran on this node up to this one; this one where the last ran elsewhere, 0
        where all ran here. So nothing newer than a checkpoint of theirs on this node's disk can be anywhere else."""
        number, replicas = int(self._spec["attempt"]), int(self._spec["fixed_env"][REPLICAS])
        while number > 1 and all(os.path.exists(f"../{run_name(number - 1, each)}") for each in range(replicas)):
            number -= 1
        return number if number > 1 else 0

    def _ask(
        self, config: Config, check: Callable[[], None], *words: str, patience: float = math.inf
    ) -> dict[str, Any]:
        """What the program says within so many seconds. Raises StartFailed, StartUnreachable."""
        # Loaded by the jobs that keep checkpoints beyond their node.
        import subprocess

        process = subprocess.Popen(
            self._command(*words), env=self._environment(), cwd="/",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        until = time.monotonic() + patience
        try:
            process.stdin.write(config.encode())
            process.stdin.flush()
            while True:
                try:
                    process.wait(_LOOK)
                    break
                except subprocess.TimeoutExpired:
                    check()
                if time.monotonic() > until:
                    raise StartUnreachable(f"{config.uri} does not answer")
            said = process.stdout.read(2**20)
        except BaseException:
            process.kill()
            raise
        finally:
            process.stdin.close()
            process.stdout.close()
            process.wait()
        try:
            answer: dict[str, Any] = json.loads(said)
        except ValueError:
            raise StartUnreachable(f"what fetches checkpoints ended with {process.returncode} and no word") from None
        if "error" not in answer:
            return answer
        if answer.get("again"):
            raise StartUnreachable(answer["error"])
        hint = f" ({answer['hint']})" if answer.get("hint") else ""
        raise StartFailed(f"checkpoints: {answer['error']}{hint}")

    def _detach(self, verb: str, path: str, readable: int) -> NoReturn:
        """In the first child: a second one, which belongs to nobody, becomes the uploader."""
        try:
            if os.fork() == 0:
                os.setsid()
                os.dup2(readable, 0)
                # Opened here: the uploader may be another user by the time that it writes there.
                os.dup2(os.open(layout.UPLOADER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), NOTE)
                log = os.open(layout.UPLOADER_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                os.dup2(log, 1)
                os.dup2(log, 2)
                os.chdir("/")
                for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                    signal.signal(number, signal.SIG_DFL)
                command = self._command(verb, path)
                os.execve(command[0], command, self._environment())
        finally:
            os._exit(0)

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-I", "-X", "utf8", PROGRAM, *words]

    def _environment(self) -> dict[str, str]:
        return {name: self._variables[name] for name in (*_OWN, *ENVIRONMENT) if name in self._variables}


def _main(arguments: list[str]) -> int:
    os.chdir(arguments[0])
    os.umask(0o077)
    spec = read_document(layout.SPEC)
    if spec is not None:
        Uploading(spec, os.environ).start()
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
