"""Where PoCL keeps what it has compiled. A node's first look at its devices compiles a kernel, which takes 0.8 s of a
processor in a home of its own, and 0.1 where that was compiled before."""

from __future__ import annotations

import os
from pathlib import Path

CACHE = "POCL_CACHE_DIR"
"""PoCL's variable. Any number of processes may share the directory."""


def cache() -> str:
    """The directory that PoCL has in this process."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return os.environ.get(CACHE) or str(caches / "pocl" / "kcache")
