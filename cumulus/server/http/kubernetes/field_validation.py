"""`fieldValidation`: what becomes of fields that a kind does not have, and of those that are given twice.

Strict: the request is refused, with all of them. Warn, the default: they are left out, with a warning for each. Ignore:
they are left out. Of a field that is given twice the last is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cumulus.admission.problems import FieldProblem
from cumulus.admission.unknown_fields import StrictDecodingError, quoted
from cumulus.errors import InvalidObject
from cumulus.lib.printable import one_line
from cumulus.server.http.kubernetes import bodies

if TYPE_CHECKING:
    from starlette.requests import Request

LEVELS = ("Strict", "Warn", "Ignore")


class FieldValidation:
    """Of one request. `found` is what its client is to be warned of."""

    def __init__(self, request: Request) -> None:
        self._level = request.query_params.get("fieldValidation") or "Warn"
        if self._level not in LEVELS:
            given = one_line(self._level)[:60]
            raise InvalidObject(f"fieldValidation must be Strict, Warn or Ignore, not {given}", field="fieldValidation")
        self._found: dict[FieldProblem, None] = {}

    @property
    def found(self) -> list[str]:
        """Each as a sentence, once."""
        return [quoted(problem) for problem in self._found]

    def body(self, body: bytes) -> None:
        """Look for fields that a JSON body, which can be parsed, gives twice. Raises StrictDecodingError."""
        if self._level != "Ignore":
            self.take(bodies.repeated_fields(body))

    def take(self, problems: Sequence[FieldProblem]) -> None:
        """Raises StrictDecodingError with them where they forbid the request."""
        if self._level == "Strict" and problems:
            raise StrictDecodingError(problems)
        if self._level == "Warn":
            self._found |= dict.fromkeys(problems)
