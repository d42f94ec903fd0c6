"""`chronos_cli`, also as `python -m cumulus.chronos`. Its imports need Linux, so another system is told before them."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line of this process; see `cumulus.chronos.cli.main`."""
    if sys.platform != "linux":
        sys.stderr.write("error: leases are kept on Linux alone; chronos_cli runs on nodes\n")
        return 1
    from cumulus.lib import collector

    collector.begin()
    from cumulus.chronos.cli import main as run

    code = run()
    collector.end()
    return code


if __name__ == "__main__":
    sys.exit(main())
