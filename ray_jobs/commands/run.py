"""`dxmc run`: the whole pipeline, then what came out and what to type next."""

import argparse
import json
import shlex
from typing import TYPE_CHECKING, Any

from ray_jobs.arguments import add_run_arguments
from ray_jobs.commands import this_dxmc
from ray_jobs.commands.suggest_k import suggestions

if TYPE_CHECKING:
    from ray_jobs.context import RunContext


NAME = "run"
SUMMARY = "Run the pipeline; finished stages are skipped, a killed run goes on."
EXAMPLES = """\
dxmc run --config configs/laptop.yaml --set source.uri=~/Pictures
dxmc run --config configs/laptop.yaml --set method.name=kmeans      rebuilds only what depends on it
dxmc run --config configs/laptop.yaml --set num_clusters=auto       finds out how many clusters there are
dxmc run --config configs/s3.yaml --run-dir s3://bucket/runs/first"""
_SHOWN_CLUSTERS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)


def execute(arguments: argparse.Namespace) -> None:
    from ray_jobs.main import run

    result = _result(run((), arguments))
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        _print(result)


def _result(context: "RunContext") -> dict[str, Any]:
    from dxmc_core.artifacts.tables import CLUSTERS
    from dxmc_core.evaluation.scores import evaluate_run

    stage = context.stage("assign_clusters")
    clusters = stage.read_table(CLUSTERS, ["cluster_id", "name", "size"]).to_pylist()
    embedded = context.stage("embed_images").require_manifest().metrics
    return {
        "run_dir": context.run_dir.uri,
        "suggested_num_clusters": suggestions(context) if context.choice_of_k else None,
        "images": embedded["images"],
        "rejects": embedded["rejects"],
        "near_duplicates": _near_duplicates(context),
        "clusters": sorted(clusters, key=lambda row: (-row["size"], row["cluster_id"])),
        "has_names": context.config.vocabulary is not None,
        "external": evaluate_run(context.run_dir, seed=context.config.seed).get("external"),
        "report": f"{context.stage('write_report').storage.uri}/index.html",
        "assignments": f"{stage.storage.uri}/assignments/*.parquet",
    }


def _near_duplicates(context: "RunContext") -> dict[str, int]:
    metrics = context.stage("mine_neighbors").require_manifest().metrics
    return {name: metrics[name] for name in ("near_duplicate_images", "near_duplicate_groups", "exact_copies")}


def _print(result: dict[str, Any]) -> None:
    clusters = result["clusters"]
    if result["suggested_num_clusters"]:
        best, *others = result["suggested_num_clusters"]
        print(f"\nnumber of clusters: {best['num_clusters']} ({best['reason']})")
        for row in others:
            print(f"  or {row['num_clusters']} ({row['reason']}): --set num_clusters={row['num_clusters']}")
    print(f"\n{result['images']} images in {len(clusters)} clusters, {result['rejects']} could not be used")
    images, groups, copies = result["near_duplicates"].values()
    if images:
        print(f"{images} of them have near duplicates, in {groups} groups; {copies} are exact copies")
    print(f"  {'cluster':>7}  {'images':>8}  name")
    for row in clusters[:_SHOWN_CLUSTERS]:
        print(f"  {row['cluster_id']:>7}  {row['size']:>8}  {row['name']}")
    if len(clusters) > _SHOWN_CLUSTERS:
        print(f"  {'...':>7}  {len(clusters) - _SHOWN_CLUSTERS} more: dxmc clusters {shlex.quote(result['run_dir'])}")
    if result["external"]:
        scores = "  ".join(f"{name.upper()} {value:.3f}" for name, value in result["external"].items())
        print(f"against the labels: {scores}")
    print(f"\nreport:       {result['report']}")
    print(f"assignments:  {result['assignments']}")
    place = shlex.quote(result["run_dir"])
    dxmc = this_dxmc()
    print(f"next:         {dxmc} status {place}")
    print(f"              {dxmc} evaluate {place}")
    if result["has_names"]:
        print(f"              {dxmc} search {place} {shlex.quote(clusters[0]['name'])}")
