"""`dxmc review`: the report of a run in a browser, where corrections are taken and applied."""

import argparse
import getpass
import json
from contextlib import suppress

from dxmc_core.errors import InputError

NAME = "review"
SUMMARY = "Open the report as a page that takes corrections, on this machine alone."
EXAMPLES = """\
dxmc review runs/laptop                    prints an address for a browser on this machine; Ctrl-C ends it
dxmc review s3://bucket/dxmc/run --author ann
dxmc review runs/laptop --port 8123        for ssh -L 8123:127.0.0.1:8123 HOST"""
_MAX_PORT = 65535


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("--author", metavar="NAME", help="who corrects (default: the name of the user)")
    parser.add_argument(
        "--port", metavar="N", type=int, default=0, help="of the loopback interface (default: a free one)"
    )


def execute(arguments: argparse.Namespace) -> None:
    if not 0 <= arguments.port <= _MAX_PORT:
        raise InputError(f"--port is {arguments.port}; expected 0 to {_MAX_PORT}")
    from dxmc_core.edits.model import require_name
    from dxmc_core.edits.server import HOST, ReviewServer
    from ray_jobs.edit_run import add_edits, edit_run
    from ray_jobs.progress import waiting_for_a_person

    try:
        author = require_name(arguments.author or getpass.getuser())
    except (ValueError, OSError) as error:
        raise InputError(f"--author: {error}") from error
    try:
        server = ReviewServer(
            arguments.run_dir,
            author=author,
            add=add_edits,
            apply=lambda: edit_run(arguments.run_dir, lambda found, _: found),
            port=arguments.port,
        )
    except OSError as error:
        raise InputError(
            f"port {arguments.port} of {HOST} cannot be used: {error.strerror}; leave --port out"
        ) from error
    with server, waiting_for_a_person(), suppress(KeyboardInterrupt):
        print(json.dumps({"address": server.address}) if arguments.json else server.address, flush=True)
        server.serve()
