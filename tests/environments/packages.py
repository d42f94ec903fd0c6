"""A package index in a directory, with tiny packages made on the spot: no test needs a network."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

PROGRAM = "print-answer"


class Index:
    """An index of `answer` (pure Python, with a program), `evil` (runs code as soon as a Python starts beside it) and
    `built` (there is only a source distribution)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hashes: dict[str, str] = {}
        self._add("answer", "answer-1.0-py3-none-any.whl", _wheel("answer", "1.0"))
        self._add("evil", "evil-1.0-py3-none-any.whl", _wheel("evil", "1.0", EVIL))
        self._add("built", "built-1.0.tar.gz", _source("built", "1.0"))

    @property
    def url(self) -> str:
        return self.root.as_uri()

    @property
    def variables(self) -> dict[str, str]:
        """What makes pip and uv use it."""
        return {"PIP_INDEX_URL": self.url, "UV_DEFAULT_INDEX": self.url, "PIP_NO_BUILD_ISOLATION": "0"}

    def locked(self, *names: str) -> str:
        return "".join(f"{name}==1.0 --hash=sha256:{self.hashes[name]}\n" for name in names)

    def _add(self, name: str, file: str, content: bytes) -> None:
        directory = self.root / name
        directory.mkdir(parents=True)
        (directory / file).write_bytes(content)
        digest = self.hashes[name] = hashlib.sha256(content).hexdigest()
        (directory / "index.html").write_text(f'<a href="{file}#sha256={digest}">{file}</a>')


_TRACE = 'import os; open(os.environ["HOME"] + "/evil-ran", "w").close()\n'
EVIL = {"evil.pth": _TRACE, "sitecustomize.py": _TRACE, "pip/__init__.py": _TRACE, "pip/__main__.py": _TRACE}
"""What Python runs of a package before anybody imports it."""


def _wheel(name: str, version: str, more: Mapping[str, str] = MappingProxyType({})) -> bytes:
    info = f"{name}-{version}.dist-info"
    files = {
        **more,
        f"{name}.py": f"value = 42\n\n\ndef main():\n    print(value, __file__)\n# {name}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\nprint-{name} = {name}:main\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0)), text)
    return content.getvalue()


_BACKEND = """
import os, zipfile
wheel = %r
def build_wheel(directory, config_settings=None, metadata_directory=None):
    open(os.environ.get("HOME", "/nowhere") + "/built-by", "w").write(str(os.getuid()))
    name = "built-1.0-py3-none-any.whl"
    open(os.path.join(directory, name), "wb").write(wheel)
    return name
"""


def _source(name: str, version: str) -> bytes:
    """Building it runs code of its own, which writes down who it ran as."""
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    files = {
        "pyproject.toml": f'{project}[project]\nname = "{name}"\nversion = "{version}"\n',
        "backend.py": _BACKEND % _wheel(name, version),
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
    }
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for path, text in files.items():
            member = tarfile.TarInfo(f"{name}-{version}/{path}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return content.getvalue()
