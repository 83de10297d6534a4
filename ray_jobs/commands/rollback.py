"""`dxmc rollback`: the generations that a directory keeps, and the way back to an earlier one."""

import argparse
import json

from dxmc_core.errors import InputError

NAME = "rollback"
SUMMARY = "Make an earlier generation of dxmc recluster the current one again."
EXAMPLES = """\
dxmc rollback s3://bucket/dxmc/run --list      the generations that are kept
dxmc rollback s3://bucket/dxmc/run             to the one before
dxmc rollback s3://bucket/dxmc/run --to 12"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--to", metavar="N", type=int, help="this generation; by default the one before the current")
    choice.add_argument("--list", action="store_true", help="change nothing, show the generations that are kept")


def execute(arguments: argparse.Namespace) -> None:
    from dxmc_core.artifacts.generations import CURRENT_NAME, Generations
    from dxmc_core.artifacts.run_dir import RunDir

    generations = Generations(RunDir.at(arguments.run_dir))
    if not generations.home.storage.exists(CURRENT_NAME):
        raise InputError(f"{generations.home.uri} has no generations; dxmc recluster makes them")
    if not arguments.list:
        with generations.home.locked():
            generations.rollback(arguments.to)
    pointer = generations.pointer()
    assert pointer is not None
    records = generations.published()
    if arguments.json:
        kept = [record.model_dump(exclude={"metrics"}) for record in records]
        print(json.dumps({"run_dir": generations.home.uri, "current": pointer.current, "generations": kept}, indent=1))
        return
    for record in records:
        mark = "*" if record.number == pointer.current else " "
        print(f"{mark} {record.number:>6}  {record.published_at}  {record.mode:<6}  {record.reason}")
