"""What the daemon tells the gRPC server at its start: one line of JSON on its standard input."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cumulus.blob.base import BlobLimits
from cumulus.blob.s3.bucket import Bucket


@dataclass(frozen=True, slots=True)
class Launch:
    """`listen`: HOST:PORT over TLS. `names`: by which clients call this machine. `tls_cert`, `tls_key`: as in `api` of
    the settings. `system`: it answers every user of the machine. `mounts`: see `Access`. `blobs`,
    `blob_limits`, `bucket`: see `open_blobs`; the keys of the bucket are in the environment. `path`: the PATH that the
    settings give to jobs."""

    home: str
    listen: str
    names: tuple[str, ...] = ()
    tls_cert: str = ""
    tls_key: str = ""
    system: bool = False
    mounts: tuple[str, ...] = ()
    blobs: str = ""
    blob_limits: BlobLimits = field(default_factory=BlobLimits)
    bucket: Bucket | None = None
    log_level: str = "info"
    path: str = ""

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def read(cls, line: bytes) -> Launch:
        found = json.loads(line)
        bucket = found["bucket"] and Bucket(
            found["bucket"]["name"], found["bucket"]["region"], found["bucket"]["endpoint"]
        )
        parts = {
            "names": tuple(found["names"]), "mounts": tuple(found["mounts"]),
            "blob_limits": BlobLimits(**found["blob_limits"]), "bucket": bucket,
        }  # fmt: skip
        return cls(**found | parts)

    @property
    def directory(self) -> Path:
        return Path(self.home)
