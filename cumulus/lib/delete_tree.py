"""Deletes a directory with all that is in it. As a program it does so as another user: `delete_tree.py USER PATH`.

Standard library only; run by path.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence

if __name__ == "__main__":
    sys.path[0:0] = [os.path.abspath(__file__ + "/../../..")]

from cumulus.lib.unix_user import UnixUser, become

_PATIENCE = 10.0


def delete_tree(directory: str) -> None:
    """Delete the directory with everything in it. Raises OSError.

    Jobs may leave directories that even their owner cannot enter or change, and another process may be deleting the
    same."""
    while os.path.lexists(directory):
        try:
            if os.path.islink(directory) or not os.path.isdir(directory):
                os.unlink(directory)
            else:
                shutil.rmtree(directory)
        except FileNotFoundError:
            continue
        except PermissionError:
            for parent, names, _ in os.walk(directory):
                for name in names:
                    path = os.path.join(parent, name)
                    if not os.path.islink(path):
                        os.chmod(path, stat.S_IRWXU)
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(directory)


def delete_tree_as(user: UnixUser, directory: str, patience: float = _PATIENCE) -> None:
    """`delete_tree` in a process of `user`: whatever the path has become, it can reach no more than they can.

    Raises OSError, also where it takes longer than `patience` seconds: a file system of the user's may not answer."""
    command = [sys.executable, "-I", "-S", "-X", "utf8", os.path.abspath(__file__), json.dumps(user), directory]
    try:
        done = subprocess.run(
            command, env={}, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            timeout=patience, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise TimeoutError(0, f"deleting takes longer than {patience:g} s", directory) from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it was killed"]
        raise OSError(0, said[-1], directory)


def _main(arguments: Sequence[str]) -> int:
    user = UnixUser.read(json.loads(arguments[0]))
    assert user is not None
    become(user)
    try:
        delete_tree(arguments[1])
    except OSError as error:
        sys.stderr.write(f"{error.strerror}: {error.filename}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
