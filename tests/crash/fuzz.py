"""`python -m tests.crash.fuzz --minutes N`: every fuzzer of the project, again and again with other seeds.

Manifests, quantities, selectors, jsonpath, stored rows, arguments of chronos_cli and files of runs. A failure prints
how to repeat it and ends with 1.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time

FUZZERS = (
    "tests/crash/test_fuzz.py",
    "tests/manifest/test_yaml_nodes.py",
    "tests/resources/test_quantity.py",
    "tests/store/test_selectors.py",
    "tests/cli/test_jsonpath.py",
)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long (default 10)")
    options = parser.parse_args(arguments)
    end, rounds = time.monotonic() + options.minutes * 60, 0
    environment = {**os.environ, "CUMULUS_FUZZ": "200", "PROPERTY_SECONDS": "1200"}
    while time.monotonic() < end:
        seed = random.SystemRandom().randrange(10**9)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=1200"]
        done = subprocess.run([*command, f"--hypothesis-seed={seed}", *FUZZERS], env=environment, check=False)
        if done.returncode:
            again = f"{' '.join(command[1:])} --hypothesis-seed={seed}"
            print(f"seed {seed} failed; repeat it with: PROPERTY_SECONDS=1200 CUMULUS_FUZZ=200 {again}")
            return 1
        rounds += 1
        print(f"round {rounds}, seed {seed}: nothing found", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
