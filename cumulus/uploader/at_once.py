"""Several files at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from cumulus.checkpoint.layout import File


def each(work: Callable[[File], None], some: Sequence[File], at_once: int, threads: str) -> None:
    """Do it for each file, so many at once, in threads of that name. Raises what `work` raises; after one that fails no
    other is begun."""
    with ThreadPoolExecutor(at_once, thread_name_prefix=threads) as pool:
        futures = [pool.submit(work, file) for file in some]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()
