"""`python -m tests.crash --minutes N [--seed S]`: rounds of kills until the time is over.

Ends with 1 at the first round that breaks a promise; its directory is then kept.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter

from tests.crash.loop import Round
from tests.crash.world import world


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long (default 10)")
    parser.add_argument("--seed", type=int, default=None, help="of the first round; the next ones count up")
    parser.add_argument("--round", type=float, default=60, help="seconds of chaos in a round (default 60)")
    options = parser.parse_args(arguments)
    first = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    started, kills, chaos = time.monotonic(), Counter[str](), 0.0
    number = jobs = commands = 0
    while time.monotonic() - started < options.minutes * 60:
        seed = first + number
        number += 1
        try:
            with world(keep_on_failure=True) as here:
                round = Round(here, seed)
                if round.run(options.round):
                    raise AssertionError("\n  ".join([f"seed {seed}, files in {here.directory}:", *round.failures]))
        except AssertionError as error:
            print(error, flush=True)
            return 1
        kills += round.kills
        jobs += len(round.wishes)
        commands += round.commands
        chaos += options.round / 60
        total = sum(kills.values())
        print(
            f"round {number} seed {seed} {(time.monotonic() - started) / 60:.1f} min: {total} kills"
            f" ({total / chaos:.0f} a minute of chaos), {jobs} objects, {commands} commands, {dict(kills)}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
