"""What stands in clear beside a call: the directory that a node gets, its `call.json`, and the head of a payload.

A payload is `HEAD`, the client's key (32 bytes), and then the pickle (protocol 5) of `(function, args, kwargs)`. The
key stands before the pickle, so that an answer can be signed also where the pickle cannot be read.

A large argument is a pickle of its own, in a file of its own. Then the payload has a fourth part, a list of such
arguments: each is the sha256 of its pickle with the places where it belongs, which are numbers in `args` and names in
`kwargs`. What stands at these places in the payload counts for nothing.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from cumulus.calls import documents

CALL, PAYLOAD, ARCHIVE, RUNNER = "call.json", "payload", "archive.zip", "runner.pyz"
ENVIRONMENT = "environment.json"
"""Files of a call's directory on the node, made before the start."""
ARGUMENT = "argument-"
"""How the name of a large argument's file begins; its sha256 follows."""
OUTCOME, RESULT = "outcome.json", "result"
"""Those that the runner writes: the result first, and each of them whole or not at all."""
SOCKET = "session.sock"
"""Where a session answers; see `session`."""

SOURCES = ".cumulus-sources.json"
"""In the archive, where it is wanted: a JSON object of file name to text, of code that travels by value (a script, the
cells of a notebook), so that tracebacks show its lines."""

RELAY = "relay"
"""Behind the directory, on the runner's command line: not to run the call, but to carry a connection to its session."""

FORMAT = 1
LARGEST = 16 * 2**30
"""Bytes of a payload or a result at most."""
LARGE_ARGUMENT, MOST_ARGUMENTS = 2**20, 64
"""An argument whose pickle has more bytes is a file of its own, up to so many of a call."""
HEAD = b"cumulus call 1\n"
KEY_BYTES = 32

OLDEST_PYTHON = (3, 9)
"""The oldest version in which the runner runs."""

_PYTHON = re.compile(r"3\.(0|[1-9][0-9]{0,2})")


class Envelope(NamedTuple):
    """The facts of a call that its runner needs, without unpickling anything."""

    python: str
    """major.minor of the Python that pickled it, and that runs it."""
    payload: str
    """sha256 of the payload; "" in a session that begins with no call."""
    session: bool = False
    namespace: str = ""
    job: str = ""
    attempt: int = 1

    def to_json(self) -> bytes:
        """As `call.json` holds it."""
        return documents.dump({"format": FORMAT, **self._asdict()})

    @classmethod
    def read(cls, content: bytes) -> Envelope:
        """Raises ValueError, in one line, where something is not as it should be."""
        names = frozenset(cls._fields)
        fields = documents.load(content, CALL, names, FORMAT)
        python = fields.text("python")
        if not is_python(python):
            raise fields.wrong("python", "a version like 3.11")
        return cls(
            python, fields.digest("payload"), fields.flag("session"), fields.text("namespace"), fields.text("job"),
            fields.number("attempt"),
        )  # fmt: skip


def argument_file(sha256: str) -> str:
    """The name of the file of a large argument. Raises ValueError for what is no sha256."""
    if not documents.is_digest(sha256):
        raise ValueError("the name of an argument is no sha256")
    return f"{ARGUMENT}{sha256}"


def is_python(version: str) -> bool:
    """Whether it is a version, major.minor, in which a call can run."""
    found = _PYTHON.fullmatch(version)
    return found is not None and int(found[1]) >= OLDEST_PYTHON[1]


def payload_head(key: bytes) -> bytes:
    """What stands before the pickle. `key`: random, of the client alone, `KEY_BYTES` long."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
    return HEAD + key


def key_of(head: bytes) -> bytes:
    """The key in the first `HEAD_BYTES` of a payload. Raises ValueError where that is no payload's head."""
    if len(head) != HEAD_BYTES or not head.startswith(HEAD):
        raise ValueError("the payload is of another version; use a client and a server of one version")
    return head[len(HEAD) :]


HEAD_BYTES = len(HEAD) + KEY_BYTES
