"""Where the console script `dxmc` begins: nothing is loaded yet that an interruption could come upon."""

import sys

#: Of the extra `pipeline`; others come with these.
_NEEDED = ("ray", "pyarrow", "pydantic", "yaml", "s3fs", "shtab", "psutil", "jinja2", "open_clip")
_UNUSABLE = 2


def main() -> None:
    """Load the command line and run it, or say in a line what to install for it."""
    try:
        from importlib.util import find_spec

        missing = next((name for name in _NEEDED if find_spec(name) is None), None)
        if missing is not None:
            sys.stderr.write(f"error: the command line needs the package {missing}: pip install 'dxmc[pipeline]'\n")
            sys.exit(_UNUSABLE)
        from ray_jobs.cli import main
    except KeyboardInterrupt:
        sys.exit(130)
    main()
