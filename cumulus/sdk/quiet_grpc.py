"""Loads gRPC without its own lines on stderr: the errors that it raises say the same."""

from __future__ import annotations

import os
import sys
import threading

_VARIABLE = "GRPC_VERBOSITY"
"""gRPC asks for it as it is loaded. A program that sets it, or that loaded gRPC before, keeps it as loud as it was."""
_lock = threading.Lock()


def load() -> None:
    """Afterwards `import grpc` gives it at once."""
    with _lock:
        if "grpc" in sys.modules or _VARIABLE in os.environ:
            return
        os.environ[_VARIABLE] = "NONE"
        try:
            import grpc  # noqa: F401
        finally:
            os.environ.pop(_VARIABLE, None)
