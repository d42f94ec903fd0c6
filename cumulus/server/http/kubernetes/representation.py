"""In which form a client wants its answer: whole objects, their metadata alone, or rows of a table; as JSON or YAML."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from cumulus.errors import UsageError
from cumulus.server.http.accept import accepted
from cumulus.server.http.json_response import json_response

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_YAML_OBJECTS = 1000
"""In one answer: YAML takes a hundred times as long to write as JSON."""
MAX_WARNINGS = 20
"""Of one answer. Clients, and proxies in between, take no more than some kilobytes of headers."""
_JSON = ("application/json", "application/*", "*/*", "")
_FORMS = {"": "", "Table": "Table", "PartialObjectMetadata": "PartialObjectMetadata",
          "PartialObjectMetadataList": "PartialObjectMetadata"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Form:
    """`kind`: Table, PartialObjectMetadata, or "" for whole objects."""

    kind: str = ""
    yaml: bool = False

    @property
    def media_type(self) -> str:
        name = "application/yaml" if self.yaml else "application/json"
        return name if not self.kind else f"{name};as={self.kind};v=v1;g=meta.k8s.io"

    def response(self, answer: dict[str, Any], code: int = 200, warnings: Iterable[str] = ()) -> Response:
        """The answer, encoded; each of the warnings becomes a header that kubectl shows. It may take some time."""
        response = self._yaml(answer, code) if self.yaml else json_response(answer, code, media_type=self.media_type)
        for text in list(warnings)[:MAX_WARNINGS]:
            response.headers.append("warning", f'299 - "{_header_text(text)}"')
        return response

    def packed_response(self, pieces: Iterable[bytes]) -> Response:
        """The answer that these pieces of JSON are together."""
        return Response(b"".join(pieces), media_type=self.media_type)

    def _yaml(self, answer: dict[str, Any], code: int) -> Response:
        from cumulus.manifest.dump import dump

        if len(answer.get("items") or answer.get("rows") or ()) > MAX_YAML_OBJECTS:
            raise UsageError(f"YAML holds at most {MAX_YAML_OBJECTS:,} objects", hint="ask for JSON, or give a limit")
        return Response(dump(answer), code, media_type=self.media_type)


def form_of(request: Request) -> Form:
    """The first of what the client accepts that there is. Raises HTTPException with 406 where there is none."""
    if (found := _form(request.headers.get("accept", ""))) is None:
        raise not_acceptable()
    return found


@lru_cache(maxsize=256)
def _form(accept: str) -> Form | None:
    for media_type, options in accepted(accept):
        kind = _FORMS.get(options.get("as", ""))
        if kind is None or (kind and options.get("v") != "v1"):
            continue
        if media_type in _JSON:
            return Form(kind)
        if media_type == "application/yaml":
            return Form(kind, yaml=True)
    return None


def not_acceptable() -> HTTPException:
    return HTTPException(
        406, "only the following media types are accepted: application/json, application/yaml (but for watches), "
        "application/json;as=Table;v=v1;g=meta.k8s.io, application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
    )  # fmt: skip


def _header_text(text: str) -> str:
    plain = "".join(char if " " <= char <= "~" else "?" for char in text[:500])
    return plain.replace("\\", "\\\\").replace('"', '\\"')
