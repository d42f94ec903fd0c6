"""`python -m tests.crash.damaged_run DIRECTORY SEED EXAMPLES`: a process backend whose files are damaged by chance.

To be run in a pid namespace of its own: a supervisor that takes a damaged file at its word may end anything.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from cumulus.backends.process import layout, spawner
from cumulus.errors import BackendError
from tests.backends.process_bed import ProcessBed
from tests.crash.nonsense import VALUES, damage
from tests.waiting import PATIENCE


def main(directory: Path, seed: int, examples: int) -> None:
    """Raises AssertionError where the backend hides a sound run, or a supervisor changes a damaged file."""
    bed = ProcessBed(directory)
    well, _ = bed.run("true", job="well")
    hurt, _ = bed.run("true", job="hurt")
    place = bed.run_directory(hurt)
    good = {name: (place / name).read_bytes() for name in (layout.SPEC, layout.STARTED, layout.EXIT)}
    rng = random.Random(seed)
    started = json.loads(good[layout.STARTED])
    cases = [(layout.STARTED, json.dumps({**started, "session": value}).encode()) for value in (0, 1, -1)]
    cases += [(name, _damaged(rng, good[name])) for name in rng.choices(list(good), k=examples)]
    for name, damaged in cases:
        for other, content in good.items():
            (place / other).write_bytes(content)
        (place / name).write_bytes(damaged)
        if name == layout.STARTED or (name == layout.SPEC and rng.random() < 0.7):
            (place / layout.EXIT).unlink()
        bed.reopen()
        said = f"{name} is {damaged[:200]!r}"
        assert well.name in {observed.name for observed in bed.backend.list()}, said
        for call in (bed.backend.get, lambda _: bed.backend.start(hurt)):
            with suppress(BackendError):
                call(hurt.name)
        command = [*spawner.PYTHON, spawner.SUPERVISOR, str(place)]
        subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
        assert (place / name).read_bytes() == damaged or name == layout.EXIT, said
    bed.close()


def _damaged(rng: random.Random, content: bytes) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return content[: rng.randrange(len(content))]
    if kind == 1:
        return rng.randbytes(rng.randrange(200))
    if kind == 2:
        return json.dumps(rng.choice(VALUES)).encode()
    return json.dumps(damage(json.loads(content), rng)).encode()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
