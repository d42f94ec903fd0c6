"""A backup travels to who asked for it: the server writes no file that a client names."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import StreamingResponse
from starlette.routing import Route

from cumulus.server.http.api import api_of, identity_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_CHUNK = 2**20


async def backup(request: Request) -> Response:
    api = api_of(request)
    # Of the state directory: a backup may be too large for /tmp, and nobody else may read it.
    directory = Path(tempfile.mkdtemp(prefix="backup-", dir=api.service.home))
    file = directory / "store"
    try:
        await api.call(api.service.backups.write, identity_of(request), file)
        headers = {"content-length": str(file.stat().st_size)}
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return StreamingResponse(_bytes(directory, file), media_type="application/octet-stream", headers=headers)


async def _bytes(directory: Path, file: Path) -> AsyncIterator[bytes]:
    try:
        with file.open("rb") as opened:
            while chunk := await asyncio.to_thread(opened.read, _CHUNK):
                yield chunk
    finally:
        shutil.rmtree(directory, ignore_errors=True)


ROUTES = (Route("/cumulus/v1/backup", backup, methods=["POST"]),)
