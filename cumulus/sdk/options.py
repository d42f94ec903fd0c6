"""What a call asks for, and the GPUJob that it becomes."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, TypedDict
from weakref import WeakKeyDictionary

from cumulus.errors import UsageError
from cumulus.lib.suggest import nearest
from cumulus.resources import quantity
from cumulus.resources.key import API_VERSION, Document
from cumulus.sdk.packaging.pickling import name_of

GPU_MEMORY, DURATION = 0.1, "1h"
"""What a call leases that does not say."""
RUN_TTL, SUBMIT_TTL = "1h", "7d"
"""How long a finished call is kept, with its result and log: one that somebody waited for, and one to come back to."""
ATTENDED = "60s"
"""How long the client of a `run` may be silent before the call is cancelled."""

_NAME = re.compile(r"[^a-z0-9]+")
_LONGEST_NAME = 40
_SCHEME = re.compile(r"(s3|file):")


class CallOptions(TypedDict, total=False):
    """The options of a call. All may be left out."""

    gpu_memory: float | str
    """The share of each device's memory: a fraction 0.5, a percentage "50%" or a size "20Gi"; else a tenth."""
    gpu_compute: float | str
    """The share of each device's compute: 0.5 or "50%"; else the same share as of the memory."""
    gpus: int
    """Devices, all on one node; else 1."""
    duration: float | str
    """When the lease ends, counted from the start: seconds or "1h30m"; else an hour."""
    image: str
    """A container image with the same Python; else a process of the node."""
    env: Mapping[str, str]
    """Environment variables."""
    requirements: Sequence[str] | str | PathLike[str]
    """Packages to install first: a list, a requirements file, or a uv.lock."""
    retries: int
    """How many times a failed call is run again; else 0."""
    checkpoint: bool | str | Mapping[str, Any]
    """Where the call keeps checkpoints, so that it goes on in a new lease: True, a path, an s3:// or file:// URI, or
    the fields of spec.checkpoint."""
    queue: str
    """The queue that the call is submitted to; else the one of its user."""
    after: Sequence[object]
    """Calls, or names of jobs of the same namespace, that must have succeeded first."""


_SIGNATURES: WeakKeyDictionary[Callable[..., Any], inspect.Signature | None] = WeakKeyDictionary()
NAMES = frozenset(CallOptions.__annotations__)


def given(**options: Any) -> CallOptions:
    """Those that are not None."""
    return {name: value for name, value in options.items() if value is not None}  # type: ignore[return-value]


def check_names(function: Callable[..., Any], verb: str) -> None:
    """Raises UsageError for a function that has a parameter of an option's name: nobody could tell which is meant."""
    signature = _signature(function)
    parameters = signature.parameters.values() if signature is not None else ()
    shared = sorted(each.name for each in parameters if each.kind is not each.VAR_KEYWORD and each.name in NAMES)
    if shared:
        name = name_of(function)
        raise UsageError(
            f"{name} has a parameter {shared[0]}, which is also an option of {verb}",
            hint=f"write client.remote({name}, {shared[0]}=…)(…): options first, then the function's own arguments",
        )


def check_arguments(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raises TypeError, as the function itself would, before anything is sent."""
    if not callable(function):
        raise TypeError(f"{function!r} is not callable; pass the function itself, and its arguments after it")
    signature = _signature(function)
    if signature is None:
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        # Of a misspelt option, which is taken for an argument of the function's.
        meant = [(name, near) for name in kwargs if name not in signature.parameters for near in nearest(name, NAMES)]
        more = f"; did you mean the option {meant[0][1]}, and not {meant[0][0]}?" if meant else ""
        raise TypeError(f"{name_of(function)}(): {error}{more}") from None


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """None where Python does not know it. To find it takes longer than a call in a session."""
    try:
        return _SIGNATURES[function]
    except (KeyError, TypeError):
        pass
    try:
        found = inspect.signature(function)
    except (TypeError, ValueError):
        found = None
    with contextlib.suppress(TypeError):
        _SIGNATURES[function] = found
    return found


def job_name(function: str) -> str:
    """A name that no other call has: the function's and ten random digits."""
    plain = _NAME.sub("-", function.rpartition(".")[2].lower()).strip("-")[:_LONGEST_NAME].strip("-")
    return f"{plain or 'call'}-{secrets.token_hex(5)}"


def interpreter(given: str | None) -> str:
    """The Python to name to nodes, which run it where they have it: `given`, else this process' own; "" for none."""
    if given is not None:
        return _text("interpreter", given)
    own = sys.executable or ""
    if not own.startswith("/"):
        # Windows'. Nodes run Linux.
        return ""
    if ".." in own.split("/"):
        # As `../venv/bin/python` was called. The last part stays: what it links to has no packages.
        directory, name = os.path.split(own)
        own = os.path.join(os.path.realpath(directory), name)
    try:
        own.encode()
    except UnicodeEncodeError:
        return ""
    return own


def python_version() -> str:
    """major.minor of this Python."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def job(
    name: str, namespace: str, options: CallOptions, call: Mapping[str, Any], *, ttl: str,
    annotations: Mapping[str, str],
) -> Document:  # fmt: skip
    """The GPUJob. `call` is its spec.call. Raises UsageError, which names the option."""
    if unknown := sorted(set(options) - NAMES):
        raise UsageError(f"there is no option {unknown[0]}; there are {', '.join(sorted(NAMES))}")
    gpu: dict[str, Any] = {
        "memory": _checked("gpu_memory", quantity.parse_share, options.get("gpu_memory", GPU_MEMORY)),
        "duration": _checked("duration", quantity.parse_duration, options.get("duration", DURATION)),
    }
    if (compute := options.get("gpu_compute")) is not None:
        gpu["compute"] = _checked("gpu_compute", quantity.parse_fraction, compute)
    if (count := options.get("gpus", 1)) != 1:
        gpu["count"] = whole("gpus", count, least=1)
    spec: dict[str, Any] = {"call": dict(call), "gpu": gpu, "ttlAfterFinished": ttl}
    if image := options.get("image"):
        spec["image"] = _text("image", image)
    if env := options.get("env"):
        if not isinstance(env, Mapping):
            raise UsageError(f"env={env!r} is no mapping", hint='write env={"NAME": "value"}')
        texts = {_text("env", key): _text(f"env[{key!r}]", value) for key, value in env.items()}
        spec["env"] = [{"name": key, "value": value} for key, value in texts.items()]
    if (queue := options.get("queue")) is not None:
        spec["queue"] = _text("queue", queue)
    if (after := options.get("after")) is not None:
        spec["after"] = {"succeeded": _jobs(after)}
    if retries := whole("retries", options.get("retries", 0), least=0):
        spec["retry"] = {"limit": retries}
    if (checkpoint := options.get("checkpoint")) not in (None, False):
        spec["checkpoint"] = _checkpoint(checkpoint)
    metadata = {"name": name, "namespace": namespace, "annotations": dict(annotations)}
    return {"apiVersion": API_VERSION, "kind": "GPUJob", "metadata": metadata, "spec": spec}


def _jobs(value: Any) -> list[str]:
    """The names of jobs, from names and calls."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UsageError(f"after={value!r} is no list", hint='write after=[call] or after=["prepare"]')
    return [_text("after", each if isinstance(each, str) else getattr(each, "name", each)) for each in value]


def _checkpoint(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    if value is True:
        return {}
    if isinstance(value, str):
        _text("checkpoint", value)
        scheme = _SCHEME.match(value)
        if scheme is not None and not value.startswith("//", scheme.end()):
            place = value[scheme.end() :].lstrip("/") or "BUCKET/PREFIX"
            raise UsageError(
                f"checkpoint={value!r} is neither a path nor a URI",
                hint=f"a URI is written {scheme[1]}://{'/' if scheme[1] == 'file' else ''}{place}, a path ./{value}",
            )
        return {"uri": value} if "://" in value else {"path": value}
    raise UsageError(f"checkpoint={value!r} is neither True nor a path, a URI or the fields of spec.checkpoint")


def _checked(name: str, parse: Callable[[Any], object], value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{name}={value!r} is neither a number nor a text")
    try:
        parse(value)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    return value


def whole(name: str, value: Any, *, least: int) -> int:
    """The value of the option `name`, a whole number. Raises UsageError."""
    if type(value) is not int or value < least:
        raise UsageError(f"{name}={value!r} is not a whole number of at least {least}")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{name} must be a text, not {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        # As Python gives what the system has in other bytes: variables, arguments, names of files.
        raise UsageError(f"{name} must be a text of UTF-8, not {value!a}") from None
    return value
