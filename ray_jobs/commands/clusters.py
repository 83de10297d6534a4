"""`dxmc clusters`: one line per cluster."""

import argparse
import json

NAME = "clusters"
SUMMARY = "List the clusters of a run: number, size, name and further words."
EXAMPLES = """\
dxmc clusters runs/demo
dxmc clusters s3://bucket/runs/first --json     with typical images and the branch of the tree"""
_SHOWN_TERMS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR")


def execute(arguments: argparse.Namespace) -> None:
    from dxmc_core.artifacts.generations import open_run_dir
    from dxmc_core.stages.cluster_summary import summarize_clusters

    rows = summarize_clusters(open_run_dir(arguments.run_dir)).to_pylist()
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    width = max([len("name"), *(len(row["name"]) for row in rows)])
    print(f"{'cluster':>7}  {'images':>9}  {'name':<{width}}  further words")
    for row in rows:
        words = [term for term in row["terms"] if term != row["name"]][:_SHOWN_TERMS]
        print(f"{row['cluster_id']:>7}  {row['size']:>9,}  {row['name']:<{width}}  {', '.join(words)}".rstrip())
