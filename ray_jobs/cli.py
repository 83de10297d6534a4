"""The console script `dxmc`: puts the commands of `ray_jobs.commands` under one parser."""

import argparse
import sys
from collections.abc import Sequence

from dxmc_core import __version__
from ray_jobs.arguments import add_quiet
from ray_jobs.commands import (
    Command,
    clusters,
    completion,
    edit,
    evaluate,
    export,
    init,
    preflight,
    recluster,
    report,
    review,
    rollback,
    run,
    search,
    status,
    suggest_k,
)
from ray_jobs.program import guarded

COMMANDS: tuple[Command, ...] = (
    init,
    run,
    recluster,
    rollback,
    preflight,
    status,
    clusters,
    edit,
    search,
    evaluate,
    suggest_k,
    report,
    review,
    export,
    completion,
)

_EXAMPLES = """\
dxmc init images photos.yaml
dxmc run --config configs/laptop.yaml --set source.uri=~/Pictures
dxmc preflight --config configs/laptop.yaml --set source.uri=~/Pictures
dxmc status runs/laptop
dxmc search runs/laptop "a dog on the beach"
dxmc evaluate runs/laptop --json
dxmc suggest-k runs/laptop
dxmc COMMAND --help                                                 shows more of each"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run the command, exit with its code."""
    parsed = make_parser().parse_args(arguments)
    command: Command = parsed.command
    sys.exit(guarded(lambda: command.execute(parsed), name=command.NAME, quiet=getattr(parsed, "quiet", False)))


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; what it parses has `command`, one of `COMMANDS`."""
    parser = argparse.ArgumentParser(
        prog="dxmc",
        description="Clusters unlabeled images by CLIP embeddings and names every cluster.",
        epilog=_epilog(_EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dxmc {__version__}")
    parsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        subparser = parsers.add_parser(
            command.NAME,
            help=command.SUMMARY,
            description=command.SUMMARY,
            epilog=_epilog(command.EXAMPLES),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        if command is completion:
            subparser.set_defaults(root_parser=parser)
        else:
            subparser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
            add_quiet(subparser)
        subparser.set_defaults(command=command)
    return parser


def _epilog(examples: str) -> str:
    return "examples:\n" + "".join(f"  {line}\n" for line in examples.splitlines())


if __name__ == "__main__":
    main()
