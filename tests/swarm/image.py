"""A root file system for tests, from what this machine has: no registry is asked."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def busybox(root: Path) -> None:
    """busybox with all its names, a user, and the usual directories."""
    program = shutil.which("busybox", path="/bin:/usr/bin")
    if (
        program is None
        or b"dynamic" in subprocess.run(["file", "-L", program], capture_output=True, check=False).stdout
    ):
        raise FileNotFoundError("the test image needs a static busybox: apt-get install busybox-static")
    for name in ("bin", "tmp", "etc", "proc", "sys", "dev", "run"):
        (root / name).mkdir(exist_ok=True)
    shutil.copy2(program, root / "bin" / "busybox")
    names = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/:/bin/sh\njob:x:1000:1000:job:/tmp:/bin/sh\n")
