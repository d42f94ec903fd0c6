"""A log that is followed over HTTP goes on after the server restarted, behind what was received."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from cumulus.answers.logs import LogAwaits, LogBytes, LogPiece, NobodyActs
from cumulus.client.http.connection import Connection, Cut

Open = Callable[..., Generator[LogPiece]]
"""Opens the stream of a log; takes `attempt`, `tail`, `skip` and `onwards` of `service.logs`."""


def followed(connection: Connection, open: Open, attempt: int, tail: int | None) -> Iterator[LogPiece]:
    """The pieces of a log, each once. What is wrong before the first is raised here.

    With `tail` the place within the log is not known: after a restart it goes on with what is written from then on.
    """
    return _pieces(connection, open, open(attempt=attempt, tail=tail), attempt, tail)


def _pieces(
    connection: Connection, open: Open, pieces: Generator[LogPiece], asked: int, tail: int | None
) -> Iterator[LogPiece]:
    number, received = asked, 0
    told: set[LogPiece] = set()
    while True:
        try:
            with closing(pieces):
                for piece in pieces:
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
            return
        except Cut:
            place = {"attempt": number, "tail": tail}
            if number:
                known = {"skip": received} if tail is None else {"tail": 0}
                place |= {"onwards": not asked, **known}
            pieces = connection.again(lambda place=place: open(**place))  # type: ignore[misc]
