"""Arguments that commands and jobs share, and numbers, which argparse refuses by their option when out of range."""

import argparse
import math


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that every job takes."""
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML file, local or s3://")
    parser.add_argument("--run-dir", metavar="URI", help="where artifacts go, in place of the file's run_dir")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one setting, such as --set method.name=kmeans; may be repeated",
    )


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """What every command and job takes that says how far it is."""
    parser.add_argument("--quiet", action="store_true", help="no progress and no log lines but warnings and errors")


def add_recluster_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of a scheduled run."""
    add_run_arguments(parser)
    parser.add_argument(
        "--mode",
        choices=("auto", "assign", "full"),
        default="auto",
        help="assign new images by the heads there are, cluster anew, or whichever the drift asks for (default)",
    )


def at_least_one(text: str) -> int:
    """A whole number from 1 on."""
    return _whole(text, least=1)


def whole_number(text: str) -> int:
    """A whole number from 0 on."""
    return _whole(text, least=0)


def positive(text: str) -> float:
    """A finite number above 0."""
    value = _finite(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text}")
    return value


def not_negative(text: str) -> float:
    """A finite number from 0 on."""
    value = _finite(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, found {text}")
    return value


def _whole(text: str, *, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, found {text}")
    return value


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, found {text}")
    return value
