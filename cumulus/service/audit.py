"""Who did what: one line of the log for each change that somebody asked for, and for each request that was refused.

It holds no object, value or token. Reads that are allowed are not in it: they change nothing, and there are too many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cumulus.errors import CumulusError, Forbidden
from cumulus.lib.printable import one_line
from cumulus.lib.truncate import LONGEST_WORD, truncate
from cumulus.resources.key import Key
from cumulus.service.identity import Identity

Doing = Sequence[tuple[str, str, str, str]]
"""Verb, resource, namespace and name of each change that one request asks for."""


class Audit:
    """`logs`: whether it is written. A command that asks no server is its own user's, and logs nothing."""

    def __init__(self, *, logs: bool) -> None:
        self._logs = logs

    @contextmanager
    def doing(self, identity: Identity, changes: Doing, *, dry_run: bool = False) -> Iterator[None]:
        """What happens inside is those changes: it tells how they came out. A refusal was told by who refused."""
        outcome = "done"
        try:
            yield
        except Forbidden:
            outcome = ""
            raise
        except CumulusError as error:
            outcome = type(error).__name__
            raise
        except BaseException:
            outcome = "failed"
            raise
        finally:
            for verb, resource, namespace, name in changes if outcome else ():
                self.tell(identity, verb, resource, namespace, name, outcome, dry_run=dry_run)

    def tell(
        self, identity: Identity, verb: str, resource: str, namespace: str, name: str, outcome: str, *,
        dry_run: bool = False,
    ) -> None:  # fmt: skip
        if not self._logs:
            return
        said = {
            "user": identity.name, "verb": verb, "resource": resource, "namespace": namespace, "name": name,
            "outcome": outcome,
        }  # fmt: skip
        words = {key: truncate(one_line(value), LONGEST_WORD) for key, value in said.items() if value}
        import structlog

        log = structlog.get_logger("cumulus.audit")
        log.info("audit", **words, uid=identity.uid, **({"dry_run": True} if dry_run else {}))


def change(verb: str, resource: str, key: Key) -> tuple[str, str, str, str]:
    return verb, resource, key.namespace, key.name
