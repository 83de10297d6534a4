"""`dxmc` and `python -m dxmc`: the command line, or a line that says what to install for it."""

import sys
from importlib.util import find_spec

#: Of the extra `pipeline`; the others come with these.
_NEEDED = ("ray", "pyarrow", "pydantic", "yaml", "s3fs", "shtab", "psutil", "jinja2", "open_clip")
_UNUSABLE = 2


def main() -> None:
    """Run the command line and exit with its code."""
    missing = next((name for name in _NEEDED if find_spec(name) is None), None)
    if missing is not None:
        print(f"error: the command line needs the package {missing}: pip install 'dxmc[pipeline]'", file=sys.stderr)
        sys.exit(_UNUSABLE)
    from ray_jobs.entry import main as run

    run()


if __name__ == "__main__":
    main()
