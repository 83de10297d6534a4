"""Where the console script `dxmc` begins: nothing is loaded yet that an interruption could come upon."""

import sys


def main() -> None:
    """Load the command line and run it."""
    try:
        from ray_jobs.cli import main
    except KeyboardInterrupt:
        sys.exit(130)
    main()
