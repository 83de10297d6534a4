"""`dxmc evaluate`: scores of a finished run."""

import argparse
import json

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.evaluation import evaluate_run

NAME = "evaluate"
SUMMARY = "Score a finished run, against labels where they are known."
EXAMPLES = """\
dxmc evaluate runs/demo
dxmc evaluate runs/laptop --labels labels.csv --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("--labels", metavar="FILE", help=".csv or .parquet with the columns image_id and label")


def execute(arguments: argparse.Namespace) -> None:
    result = evaluate_run(RunDir.at(arguments.run_dir), labels_uri=arguments.labels)
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{result['images']} images in {result['clusters']} clusters")
    if "external" in result:
        scores = "  ".join(f"{name.upper()} {value:.4f}" for name, value in result["external"].items())
        print(f"against {result['labelled_images']} labels: {scores}")
    print("label-free: " + "  ".join(f"{name} {value:.4f}" for name, value in result["label_free"].items()))
