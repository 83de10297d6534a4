"""`dxmc export`: the images of a run with their clusters, in the layout of another tool."""

import argparse
import json

from ray_jobs.progress import Progress

NAME = "export"
SUMMARY = "Write the images of a run with their clusters in the layout of another tool."
EXAMPLES = """\
dxmc export runs/demo --format huggingface --output exports/demo    then load_dataset("imagefolder", data_dir=...)
dxmc export runs/demo --format webdataset --output exports/shards   tar files of one cluster each
dxmc export runs/demo --format fiftyone --output exports/look
dxmc export runs/demo --format clip-retrieval --output exports/served    index, embeddings and metadata, no images
dxmc export runs/demo --format embedding-atlas --output exports/map      one Parquet file with places and thumbnails"""
_FORMATS = ("huggingface", "webdataset", "fiftyone", "clip-retrieval", "embedding-atlas")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("--format", choices=_FORMATS, required=True)
    parser.add_argument("--output", metavar="DIR", required=True, help="a new local folder")


def execute(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    from dxmc_core.artifacts.generations import open_run_dir
    from dxmc_core.config import read_run_config
    from dxmc_core.export import export_run

    run_dir = open_run_dir(arguments.run_dir)
    config = read_run_config(run_dir)
    num_images = run_dir.stage("assign_clusters").require_manifest().rows("assignments")
    with Progress("copying", num_images, unit="images") as progress:
        exported = export_run(run_dir, config, format=arguments.format, output=arguments.output, on_images=progress.add)
    if arguments.json:
        print(json.dumps(asdict(exported), indent=1))
        return
    print(f"{exported.images} images in {exported.output}")
    if exported.skipped:
        print(f"{exported.skipped} could not be read any more; see {exported.output}/skipped.jsonl")
