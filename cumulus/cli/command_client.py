"""The `cumulus` command: hands a verb to the command server of a daemon that runs, else to `cumulus.cli.main`.

Importing what a verb needs takes far longer than most verbs. The server (`cumulus.cli.command_server`) has imported it,
and runs each command in a fork of itself, with the arguments, environment, directory and descriptors of this process.
Here next to nothing is imported.

A connection to the server is one command:

    client -> server   4 bytes: length of the request; the request
    server -> client   READY: such a request is taken
    client -> server   GO, and with it descriptors 0, 1, 2 and the directory: from here on, the command may have run
    client -> server   a byte for each signal to pass on
    server -> client   4 bytes: the command's end as waitpid(2) says it; its fork says so itself where it can
    client -> server   HEARD: what is left of the command may end by itself

Whatever goes wrong before GO, the command is run here as if there were no server; so it never runs twice.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` without its enums, which take as long to import as all else here
import _socket
import os
import sys

from cumulus import __version__, environment, paths

SERVED = frozenset(
    (
        "apply", "diff", "get", "describe", "queue", "why", "logs", "events", "wait", "delete", "suspend", "resume",
        "park", "unpark", "cordon", "uncordon", "run", "label", "annotate", "explain", "secret", "source",
        "checkpoints", "token", "certificate", "kubeconfig", "version", "exec", "cp", "port-forward",
        "rerun", "extend", "top", "create", "replace", "patch", "drain", "api-resources",
    )
)  # fmt: skip
"""Verbs that need nothing of their process but what is sent: no terminal of their own, no look at the machine."""
READY, GO, HEARD = b"R", b"G", b"\0"
PATIENCE = 1.0
"""Seconds within which a server must take the request; one that is stopped or overloaded keeps nobody waiting."""
_READ_AT_START = ("PYTHON", "LD_", "TYPER_")
"""How variables begin that the interpreter, the loader and libraries read once, as they start."""
_PLACES = ("/", "/proc/self/ns/mnt", "/proc/self/ns/net", "/proc/self/ns/pid")
_INTERRUPTED = 130
_LOST = "see whether it was carried out"


def main(patience: float = PATIENCE) -> int:
    """Run the command line of this process; see `cumulus.cli.main.main` for exit codes.

    `patience`: seconds within which a server must take the request."""
    try:
        connection = _accepted(sys.argv[1:], patience)
        if connection is not None:
            # Nothing is left to flush, and taking this interpreter down would take longer than some verbs.
            os._exit(_follow(connection))
    except KeyboardInterrupt:
        # Before signals are passed on: with this process the connection ends, and with it the command.
        return _INTERRUPTED
    from cumulus.lib import collector

    collector.begin()
    from cumulus.cli.main import main as run

    code = run()
    collector.end()
    return code


def orchestrator() -> int:
    """`cumulus-orchestrator [OPTION...]` is `cumulus serve [OPTION...]`."""
    sys.argv[1:1] = ["serve"]
    return main()


def identity() -> str:
    """What must be the same here and in the server, for the same words to mean the same."""
    flags = str(sys.flags).replace("safe_path=True", "safe_path=False").replace("utf8_mode=1", "utf8_mode=0")
    names = sorted(n for n in os.environ if n.startswith(_READ_AT_START))
    # Root needs no groups, and has others in a shell than under systemd.
    groups = sorted({*os.getgroups(), os.getegid()}) if os.getuid() else []
    return "\n".join(
        (
            __version__, __file__, sys.prefix, sys.version, flags, sys.getfilesystemencoding(),
            f"{os.getresuid()} {os.getresgid()} {groups}",
            *(f"{place.st_dev}:{place.st_ino}" for place in map(os.stat, _PLACES)),
            *(f"{name}={os.environ[name]}" for name in names),
        )
    )  # fmt: skip


def _accepted(arguments: list[str], patience: float) -> _socket.socket | None:
    """A connection over which the command has begun, None where it must run here."""
    if sys.platform != "linux":  # There are no daemons elsewhere.
        return None
    try:
        home = _home(arguments)
        if home is None or environment.NO_COMMAND_SERVER in os.environ or not _can_be_sent(arguments):
            return None
        return _begun(home, arguments, patience)
    except OSError:
        return None


def _home(arguments: list[str]) -> str | None:
    """The state directory that the command speaks of, None where its verb is not served."""
    given = ""
    if arguments[:1] == ["--home"]:
        given, arguments = "".join(arguments[1:2]), arguments[2:]
    elif arguments and arguments[0].startswith("--home="):
        given, arguments = arguments[0].removeprefix("--home="), arguments[1:]
    if not arguments or arguments[0] not in SERVED or _wants_a_terminal(arguments):
        return None
    return paths.home_text(given)


def _wants_a_terminal(arguments: list[str]) -> bool:
    """`run -it`, `exec -it`: the terminal here is joined to one on the node."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return arguments[0] in ("run", "exec") and any(
        word == "--tty" or (word.startswith("-") and "t" in word and not set(word[1:]) - set("itd")) for word in own
    )


def _can_be_sent(arguments: list[str]) -> bool:
    """Whether descriptors 0, 1 and 2 and the texts are all that the command takes from this process."""
    if sys.stdin is None or sys.stdout is None or sys.stderr is None or sys.stdout.encoding != "utf-8":
        return False
    if any("/dev/fd/" in word or "/proc/self/" in word for word in arguments):
        return False
    try:
        # The terminal stops what reads from it in the background, but not what runs in another session.
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return True


def _begun(home: str, arguments: list[str], patience: float) -> _socket.socket | None:
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.settimeout(patience)
        _connect(connection, home)
        if peer(connection) == os.getuid():
            request = _request(arguments)
            connection.sendall(len(request).to_bytes(4, "big") + request)
            if connection.recv(1) == READY:
                _hold_stop(held=True)
                _go(connection)
                connection.settimeout(None)
                return connection
    except OSError:
        _hold_stop(held=False)
        connection.close()
        raise
    connection.close()
    return None


def _connect(connection: _socket.socket, home: str) -> None:
    directory = os.open(home, os.O_PATH | os.O_DIRECTORY)
    try:
        connection.connect(address(directory))
    finally:
        os.close(directory)


def address(directory: int) -> str:
    """Of the socket in an open state directory: a path of any length would not fit into 107 bytes."""
    return f"/proc/self/fd/{directory}/{paths.COMMAND_SOCKET}"


def peer(connection: _socket.socket) -> int:
    """The user id of the process at the other end."""
    credentials = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], sys.byteorder)


def _request(arguments: list[str]) -> bytes:
    mask = os.umask(0o077)
    os.umask(mask)
    words = [os.fsencode(word) for word in (identity(), str(mask), sys.stdout.errors or "", sys.argv[0], *arguments)]
    variables = [b"%b=%b" % pair for pair in os.environb.items()]
    # None of these texts can hold a zero byte.
    return b"\0".join((b"%d" % len(arguments), *words, *variables))


def _go(connection: _socket.socket) -> None:
    """Only now the descriptors: a server that does not read must not keep a pipe open."""
    directory = os.open(".", os.O_PATH | os.O_DIRECTORY)
    try:
        descriptors = b"".join(each.to_bytes(4, sys.byteorder) for each in (0, 1, 2, directory))
        connection.sendmsg([GO], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)])
    finally:
        os.close(directory)


def _hold_stop(*, held: bool) -> None:
    """A Ctrl-Z between GO and `_follow` would stop this process, and the command would go on: it waits for that."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK if held else _signal.SIG_UNBLOCK, (_signal.SIGTSTP,))


def _follow(connection: _socket.socket) -> int:
    """Pass signals on until the command has ended; its exit code. Ends by the signal that the command ended by."""

    def pass_on(number: int, _frame: object) -> None:
        try:
            connection.send(bytes([number]))
        except OSError:
            return  # It has ended, and how is about to be read.

    def pause(number: int, frame: object) -> None:
        pass_on(_signal.SIGSTOP, frame)
        _signal.signal(number, _signal.SIG_DFL)
        os.kill(os.getpid(), number)
        _signal.signal(number, pause)
        pass_on(_signal.SIGCONT, frame)

    for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT, _signal.SIGTSTP):
        # What was ignored from the start (nohup) stays so.
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, pause if number == _signal.SIGTSTP else pass_on)
    _hold_stop(held=False)
    status = _end(connection)
    if status is None:
        from cumulus.cli import terminal
        from cumulus.errors import CumulusError

        terminal.error(CumulusError("the command server ended before the command did", hint=_LOST))
        return 1
    if os.WIFSIGNALED(status):
        fatal = os.WTERMSIG(status)
        if fatal != _signal.SIGKILL:
            _signal.signal(fatal, _signal.SIG_DFL)
        os.kill(os.getpid(), fatal)
    return os.waitstatus_to_exitcode(status)


def _end(connection: _socket.socket) -> int | None:
    """How the command ended, as waitpid(2) says it; None where the connection breaks first."""
    said = b""
    while len(said) < 4:
        try:
            more = connection.recv(4 - len(said))
        except OSError:
            return None
        if not more:
            return None
        said += more
    try:
        connection.send(HEARD)
    except OSError:
        return int.from_bytes(said, "big")  # The server has ended, and knows it.
    return int.from_bytes(said, "big")


if __name__ == "__main__":
    sys.exit(main())
