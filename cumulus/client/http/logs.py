"""A log that is followed over HTTP goes on after the server restarted, behind what was received."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing

from cumulus.answers.logs import LogAwaits, LogBytes, LogPiece, NobodyActs
from cumulus.client.http.connection import ClientConnection, Cut
from cumulus.lib.returned import Returned
from cumulus.resources.key import Document

_Pieces = Generator[LogPiece, None, Document | None]
"""It returns the job as it was at the end, where the server says so."""
Open = Callable[..., _Pieces]
"""Opens the stream of a log; takes `attempt`, `tail`, `skip` and `onwards` of `service.logs`."""


def followed(connection: ClientConnection, open: Open, attempt: int, tail: int | None) -> _Pieces:
    """The pieces of a log, each once. What is wrong before the first is raised here.

    With `tail` the place within the log is not known: after a restart it goes on with what is written from then on.
    """
    return _pieces(connection, open, open(attempt=attempt, tail=tail), attempt, tail)


def _pieces(connection: ClientConnection, open: Open, pieces: _Pieces, asked: int, tail: int | None) -> _Pieces:
    number, received = asked, 0
    told: set[LogPiece] = set()
    while True:
        try:
            stream = Returned(pieces)
            with closing(pieces):
                for piece in stream:
                    if isinstance(piece, LogBytes):
                        if piece.attempt != number:
                            # Another attempt begins, which is read from its beginning unless it is the first.
                            tail, number, received = (tail if not number else None), piece.attempt, 0
                        received += len(piece.data)
                    elif piece in told:
                        continue
                    elif not isinstance(piece, LogAwaits | NobodyActs):
                        told.add(piece)
                    yield piece
            job: Document | None = stream.value
            return job
        except Cut:
            place = {"attempt": number, "tail": tail}
            if number:
                known = {"skip": received} if tail is None else {"tail": 0}
                place |= {"onwards": not asked, **known}
            pieces = connection.again(lambda place=place: open(**place))  # type: ignore[misc]
