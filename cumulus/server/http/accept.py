"""What a client accepts, by its Accept header: media types with their options, the one it likes best first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


def accepted(header: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """`application/json;as=Table;v=v1` is `("application/json", {"as": "Table", "v": "v1"})`.

    In the order of the header: Kubernetes' clients give no weights."""
    for wanted in header.split(","):
        media_type, *given = [part.strip() for part in wanted.split(";")]
        yield media_type, dict(part.partition("=")[::2] for part in given)
