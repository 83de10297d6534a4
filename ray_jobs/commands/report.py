"""`dxmc report`: a copy of a run's report."""

import argparse
import json

NAME = "report"
SUMMARY = "Copy the report of a finished run, as one file, to a place of its own."
EXAMPLES = """\
dxmc report runs/demo
dxmc report s3://bucket/runs/first --output ~/first.html"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("--output", metavar="FILE", default="report.html")


def execute(arguments: argparse.Namespace) -> None:
    from dxmc_core.artifacts.generations import open_run_dir
    from dxmc_core.artifacts.storage import write_output
    from dxmc_core.report.page import PAGE_MARK, without_members

    page = without_members(open_run_dir(arguments.run_dir).stage("write_report").read_file("index.html"))
    output = write_output(arguments.output, page, mark=PAGE_MARK)
    print(json.dumps({"report": output}, indent=1) if arguments.json else output)
