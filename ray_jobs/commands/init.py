"""`dxmc init`: a configuration to start from, with comments."""

import argparse
import importlib.resources
import json
import shlex
from pathlib import Path

from dxmc_core.errors import InputError, on_one_line
from ray_jobs.commands import this_dxmc, this_python

NAME = "init"
SUMMARY = "Write a commented configuration to start from."
EXAMPLES = """\
dxmc init images photos.yaml          a folder of photographs, without GPU or network
dxmc init embeddings mine.yaml        embeddings that you have already
dxmc init s3 bucket.yaml              images in a bucket, with CLIP
dxmc init demo demo.yaml              what `make demo` runs"""

#: What is clustered, and the file of the folder configs/ that does it.
TEMPLATES = {"images": "laptop.yaml", "embeddings": "embeddings.yaml", "s3": "s3.yaml", "demo": "demo.yaml"}
_DEMO_IMAGES = "runs/demo-images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "kind", choices=tuple(TEMPLATES), nargs="?", default="images", help="what is clustered (default: %(default)s)"
    )
    parser.add_argument(
        "path", metavar="FILE", nargs="?", default="dxmc.yaml", help="a new file (default: %(default)s)"
    )


def execute(arguments: argparse.Namespace) -> None:
    template = importlib.resources.files("dxmc_core") / "configs" / TEMPLATES[arguments.kind]
    _write_new(arguments.path, template.read_bytes())
    if arguments.json:
        print(json.dumps({"kind": arguments.kind, "path": arguments.path}, indent=1))
        return
    file = shlex.quote(arguments.path)
    print(f"wrote {arguments.path}")
    if arguments.kind == "demo":
        print(f"next:  {this_python()} -m dxmc_core.demo {_DEMO_IMAGES}")
        print(f"       {this_dxmc()} run --config {file}")
        return
    print("next:  set run_dir and source in it, then")
    print(f"       {this_dxmc()} preflight --config {file}")
    print(f"       {this_dxmc()} run --config {file}")


def _write_new(path: str, data: bytes) -> None:
    """Write a file where there is none.

    Raises:
        InputError: there is one, or the place cannot be written.
    """
    if "://" in path:
        raise InputError(f"{path} is no local file; write a local one, and copy it there")
    try:
        with Path(path).expanduser().open("xb") as file:
            file.write(data)
    except FileExistsError as error:
        raise InputError(f"{path} is there already and stays as it is; name another file") from error
    except OSError as error:
        raise InputError(f"cannot write {path}: {on_one_line(error)}; name another file") from error
