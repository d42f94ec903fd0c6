"""Chronos as a wheel of its own, made from the package that runs: what a worker needs, and nothing else.

    python -m cumulus.chronos.bundle FILE

Standard library only on both sides: it can be unpacked where there is no pip and no network. The same source gives
the same bytes, so that a worker can tell whether it has them.
"""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import cumulus

NAME = f"cumulus_chronos-{cumulus.__version__}-py3-none-any.whl"

_ROOT = Path(__file__).resolve().parents[2]
_INFO = f"cumulus_chronos-{cumulus.__version__}.dist-info"
_PARTS = (
    "cumulus/__init__.py",
    "cumulus/errors.py",
    "cumulus/clock.py",
    "cumulus/lib/*.py",
    "cumulus/resources/__init__.py",
    "cumulus/resources/device.py",
    "cumulus/resources/quantity.py",
    "cumulus/resources/enforcement.py",
    "cumulus/resources/reasons.py",
    "cumulus/chronos/*.py",
    "cumulus/chronos/contract/*.py",
    "cumulus/chronos/enforce/**/*.py",
    # Where it was built. A worker that can't load it does without: the node says so.
    "cumulus/chronos/enforce/lib/*.so",
)
_METADATA = f"""\
Metadata-Version: 2.1
Name: cumulus-chronos
Version: {cumulus.__version__}
Summary: Leases on shares of this machine's GPUs, with an end.
Requires-Python: >=3.11
"""
_WHEEL = """\
Wheel-Version: 1.0
Generator: cumulus
Root-Is-Purelib: true
Tag: py3-none-any
"""
_ENTRY_POINTS = """\
[console_scripts]
chronos_cli = cumulus.chronos.cli:main
"""


def build() -> bytes:
    """The wheel's bytes (PEP 427)."""
    found = sorted(path for part in _PARTS for path in _ROOT.glob(part))
    contents = {str(path.relative_to(_ROOT)): path.read_bytes() for path in found}
    for name, text in (("METADATA", _METADATA), ("WHEEL", _WHEEL), ("entry_points.txt", _ENTRY_POINTS)):
        contents[f"{_INFO}/{name}"] = text.encode()
    record = [f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in contents.items()]
    contents[f"{_INFO}/RECORD"] = "".join([*record, f"{_INFO}/RECORD,,\n"]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(build())
