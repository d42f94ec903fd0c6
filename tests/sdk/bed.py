"""A daemon on process jobs, and a directory with a project whose programs call functions."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from tests import processes
from tests.daemon import DaemonBed


class Bed(DaemonBed):
    """See above. The gRPC server takes a port that is free."""

    serves_grpc = True

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, XDG_CONFIG_HOME=str(directory / "config"), COLUMNS="160", ORCHESTRATOR_PORT="0")
        for name in ("CUMULUS_ORCHESTRATOR_URL", "CUMULUS_TOKEN", "CUMULUS_CA_FILE"):
            self.env.pop(name, None)
        self.project = directory / "project"
        self.project.mkdir(parents=True)
        self.write("pyproject.toml", "")

    def write(self, name: str, text: str) -> Path:
        path = self.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def start(self, name: str, text: str, **variables: str) -> subprocess.Popen[str]:
        """A program of the project."""
        path = self.write(name, text)
        return subprocess.Popen(
            [sys.executable, path], cwd=self.project, env=self.env | variables, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip

    def python(self, name: str, text: str, **variables: str) -> str:
        """What the program prints, which ends well."""
        program = self.start(name, text, **variables)
        out, err = program.communicate(timeout=120)
        assert program.returncode == 0, f"{out}\n{err}"
        return out

    def up(self) -> None:
        self.serve()
        self.ok("wait", "node", "--all", "--for=condition=Ready", "--timeout=150s")

    def down(self) -> None:
        self.run("delete", "jobs", "--all")
        processes.end(self.daemons)
