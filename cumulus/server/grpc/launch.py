"""What the daemon tells the gRPC server at its start: one line of JSON on its standard input."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Launch:
    """`listen`: HOST:PORT over TLS. `names`: by which clients call this machine. `tls_cert`, `tls_key`: as in `api` of
    the settings. `system`: it answers every user of the machine. `mounts`: see `Access`."""

    home: str
    listen: str
    names: tuple[str, ...] = ()
    tls_cert: str = ""
    tls_key: str = ""
    system: bool = False
    mounts: tuple[str, ...] = ()
    log_level: str = "info"

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def read(cls, line: bytes) -> Launch:
        found = json.loads(line)
        return cls(**found | {"names": tuple(found["names"]), "mounts": tuple(found["mounts"])})

    @property
    def directory(self) -> Path:
        return Path(self.home)
