"""`chronos_cli serve`: the commands of `chronos_cli --json` over one pair of pipes, for controllers that come over SSH.

A Python that starts takes longer than most commands. Here one serves a whole connection:

    -> {"version": 1, "time": …, "serve": 1}                    the greeting
    <- {"id": 7, "run": ["get", "--json", "some-partition"]}    a line a request, as many at once as one likes
    -> {"id": 7, "version": 1, "time": …, "lease": …}           a line an answer: what the command would print

Answers come in the order in which they are ready. Leases that are asked for while others are being granted are granted
together, with one sync of the disk. The server ends when its input ends, after a while without a request, and before a
request where another Chronos was installed in its place. What got no answer may be asked again, in a new server.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cumulus
from cumulus.chronos import cli, verbs
from cumulus.chronos.contract import wire
from cumulus.chronos.contract.session import VERBS, VERSION, read_request
from cumulus.chronos.ledger import Ledger
from cumulus.clock import SystemClock
from cumulus.errors import CumulusError, UsageError
from cumulus.lib.readable import is_readable

IDLE_SECONDS = 120.0
"""Without a request the server ends after so long: the other side may be gone without a word."""

THREADS = 4
"""Beside the one that grants: a look at the devices or a slow `prepare` must not hold up the others."""

LONGEST_LINE = 2**16

ParsedRequest = tuple[object, argparse.Namespace]


class Server:
    """Answers from `ledger`, for `source` and `sink`, which are file descriptors."""

    def __init__(self, ledger: Ledger, *, source: int = 0, sink: int = 1) -> None:
        self._ledger = ledger
        self._source = source
        self._sink = sink
        self._parser = cli.parser()
        self._writing = threading.Lock()
        self._others: queue.SimpleQueue[ParsedRequest] = queue.SimpleQueue()
        self._grants: queue.SimpleQueue[ParsedRequest] = queue.SimpleQueue()
        self._installed = _installed()

    def run(self) -> int:
        """Serve until there is a reason to end. What is being done then may be done or not, but never by half."""
        workers = [self._work_on_grants, *[self._work] * THREADS]
        for target in workers:
            threading.Thread(target=target, daemon=True).start()
        self._write(wire.document(SystemClock(), serve=VERSION))
        buffer = b""
        while True:
            *lines, buffer = (buffer + self._read()).split(b"\n")
            if not lines and (not self._more or len(buffer) > LONGEST_LINE):
                return 0
            for line in lines:
                if _installed() != self._installed:
                    return 0
                self._take(line)

    def _read(self) -> bytes:
        data = os.read(self._source, LONGEST_LINE) if is_readable(self._source, IDLE_SECONDS) else b""
        self._more = data != b""
        return data

    def _take(self, line: bytes) -> None:
        try:
            id, words = read_request(line)
        except (ValueError, TypeError, KeyError):
            self._write(_failure(None, UsageError('a request is {"id": NUMBER, "run": [WORD, …]}')))
            return
        try:
            options = self._parsed(words)
        except CumulusError as error:
            self._write(_failure(id, error))
            return
        (self._grants if words[0] == "create" else self._others).put((id, options))

    def _parsed(self, words: Sequence[str]) -> argparse.Namespace:
        """Raises `UsageError`."""
        if not words or words[0] not in VERBS:
            raise UsageError(f"{words[0] if words else ''!r} is not served", hint=f"served are {', '.join(VERBS)}")
        try:
            options = self._parser.parse_args([*words[:1], "--json", *words[1:]])
        except SystemExit:
            raise UsageError(f"chronos_cli {words[0]} is not used like that", hint="see: chronos_cli --help") from None
        if options.home is not None:
            # A forged ledger would be acted upon with the rights of whoever runs this.
            raise UsageError("a server answers from its own ledger alone", hint="leave --home out")
        options.open_ledger = lambda home: self._ledger
        return options

    def _work(self) -> None:
        while True:
            id, options = self._others.get()
            replies: list[dict[str, Any]] = []
            options.tell = replies.append
            with self._ending_on_defects():
                try:
                    options.run(options)
                except CumulusError as error:
                    replies = [_failure(id, error)]
                self._write({"id": id, **replies[-1]})

    def _work_on_grants(self) -> None:
        while True:
            some = [self._grants.get()]
            while not self._grants.empty():
                some.append(self._grants.get())
            with self._ending_on_defects():
                for answer in self._granted(some):
                    self._write(answer)

    @contextmanager
    def _ending_on_defects(self) -> Iterator[None]:
        """A server that would owe an answer for ever ends instead, as a command would that fails so."""
        try:
            yield
        except BaseException:
            traceback.print_exc()
            os._exit(70)

    def _granted(self, some: Sequence[ParsedRequest]) -> Sequence[dict[str, Any]]:
        answers: dict[object, dict[str, Any]] = {}
        wanted = {}
        for id, options in some:
            try:
                wanted[id] = verbs.lease_request(options, self._ledger)
            except CumulusError as error:
                answers[id] = _failure(id, error)
        try:
            granted = self._ledger.grant_all(list(wanted.values()))
        except CumulusError as error:
            granted = [error] * len(wanted)
        for id, lease in zip(wanted, granted, strict=True):
            if isinstance(lease, CumulusError):
                answers[id] = _failure(id, lease)
            else:
                answers[id] = {"id": id, **wire.document(SystemClock(), lease=wire.lease_json(lease))}
        return list(answers.values())

    def _write(self, said: dict[str, Any]) -> None:
        data = json.dumps(said).encode() + b"\n"
        with self._writing:
            try:
                while data:
                    data = data[os.write(self._sink, data) :]
            except OSError:
                # Nobody reads any more: the end of the input says so too, or comes soon.
                return


def _failure(id: object, error: CumulusError) -> dict[str, Any]:
    return {"id": id, **wire.document(SystemClock(), error=wire.error_json(error))}


def _installed() -> object:
    """What tells this installation from one that takes its place."""
    try:
        found = os.stat(cumulus.__file__)
    except OSError:
        return None
    return found.st_dev, found.st_ino
