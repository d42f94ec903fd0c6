"""`python -m cumulus.chronos` is `chronos_cli`."""

import sys

from cumulus.chronos.cli import main

sys.exit(main())
