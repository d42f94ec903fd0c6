"""Scripted faults for the shipped fakes: what fails, when, how often, and whether before or after the work was done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

When = Literal["before", "after"]
"""`after` is the call that did its work and whose answer was lost."""

Hook = Callable[[str, str, When], None]


@dataclass(slots=True)
class _Fault:
    call: str
    subject: str
    when: When
    error: BaseException
    times: int


class Faults:
    """Strikes at calls of a fake. `hook(call, subject, when)` is called at each point and may raise anything,
    a simulated crash of the caller among it."""

    def __init__(self, hook: Hook | None = None) -> None:
        self.hook = hook
        self._faults: list[_Fault] = []

    def fail(
        self, call: str, error: BaseException, *, subject: str = "", when: When = "before", times: int = 1
    ) -> None:
        """Let the next `times` calls of `call` raise `error`; only those about `subject` where it is given."""
        self._faults.append(_Fault(call, subject, when, error, times))

    def clear(self) -> None:
        """Forget the faults that have not struck."""
        self._faults.clear()

    @contextmanager
    def around(self, call: str, subject: str = "") -> Iterator[None]:
        """The fake does the work of `call` inside."""
        self._strike(call, subject, "before")
        yield
        self._strike(call, subject, "after")

    def _strike(self, call: str, subject: str, when: When) -> None:
        if self.hook is not None:
            self.hook(call, subject, when)
        for fault in self._faults:
            if fault.times > 0 and fault.call == call and fault.when == when and fault.subject in ("", subject):
                fault.times -= 1
                raise fault.error
