"""What a module finds that imports the SDK on a node, where an environment or an image has no Cumulus installed.

A function's module says `from cumulus.sdk import CumulusClient` or `@gpu(…)` for the caller's sake. In the call itself
a decorated function is just that function, and there is no client. What is installed comes first.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any

_NAMES = ("cumulus.sdk", "cumulus.sdk.client", "cumulus.sdk.errors", "sdk", "sdk.client")
_CLIENTS = ("CumulusClient", "AsyncCumulusClient")
_PACKAGES = ("cumulus.sdk", "sdk")


def install() -> None:
    """From now on the modules of the SDK are found, if only as stand-ins."""
    if not any(isinstance(each, _Finder) for each in sys.meta_path):
        # The last one: it is asked for what nobody else has.
        sys.meta_path.append(_Finder())


class _Finder:
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _NAMES:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=name in _PACKAGES)  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        return


class _StandIn(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name in ("gpu", "remote"):
            return _decorator
        if name.startswith("_") or not name[0].isupper():
            raise AttributeError(f"module {self.__name__} has no attribute {name}")
        # An exception, or what an annotation names: such a one is never raised or met here.
        made = type(
            name, (Exception,), {"__module__": self.__name__, "__init__": _no_client} if name in _CLIENTS else {}
        )
        setattr(self, name, made)
        return made


def _decorator(*functions: Any, **options: Any) -> Any:
    """@remote, @remote(…) and @gpu(…)"""
    if len(functions) == 1 and callable(functions[0]) and not options:
        return _decorated(functions[0])
    return _decorated


def _decorated(function: Any) -> Any:
    function.local = function
    return function


def _no_client(self: object, *_: Any, **__: Any) -> None:
    raise RuntimeError(
        "Cumulus is not installed where this call runs, so it can't make calls itself: add cumulus-gpu to its "
        "requirements, or to its image"
    )
