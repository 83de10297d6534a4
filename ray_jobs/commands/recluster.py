"""`dxmc recluster`: what a schedule calls to keep a clustering up to date with its source."""

import argparse
import json
import shlex
from typing import TYPE_CHECKING, Any

from ray_jobs.arguments import add_recluster_arguments
from ray_jobs.commands import this_dxmc

if TYPE_CHECKING:
    from dxmc_core.artifacts.generations import GenerationRecord
    from dxmc_core.artifacts.run_dir import RunDir


NAME = "recluster"
SUMMARY = "Bring a clustering up to date with its source: what a schedule calls."
EXAMPLES = """\
dxmc recluster --config nightly.yaml                     embeds what is new, assigns it, or clusters anew when it drifts
dxmc recluster --config nightly.yaml --mode full         clusters anew in any case
dxmc recluster --config nightly.yaml --mode assign       never does"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recluster_arguments(parser)


def execute(arguments: argparse.Namespace) -> None:
    from dxmc_core.artifacts.run_dir import RunDir
    from dxmc_core.config import load_config
    from ray_jobs import recluster

    record = recluster.run(arguments)
    home = RunDir.at(load_config(arguments.config, arguments.overrides, run_dir=arguments.run_dir).run_dir)
    result = _result(home, record)
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        _print(result)


def _result(home: "RunDir", record: "GenerationRecord | None") -> dict[str, Any]:
    from dxmc_core.artifacts.generations import Generations

    if record is None:
        return {"run_dir": home.uri, "generation": None}
    run_dir = Generations(home).run_dir(record.number)
    assigned = run_dir.stage("assign_clusters").require_manifest().metrics
    embedded = run_dir.stage("embed_images").require_manifest().metrics
    return {
        "run_dir": home.uri,
        "generation": record.number,
        "generation_dir": run_dir.uri,
        "mode": record.mode,
        "reason": record.reason,
        "images": embedded["images"],
        "rejects": embedded["rejects"],
        "drift": record.metrics["run"]["drift"],
        "lineage": assigned["lineage"],
        "report": f"{run_dir.stage('write_report').storage.uri}/index.html",
    }


def _print(result: dict[str, Any]) -> None:
    if result["generation"] is None:
        print("nothing has changed")
        return
    print(f"generation {result['generation']}: {result['mode']}, because {result['reason']}")
    print(f"{result['images']} images, {result['rejects']} could not be used")
    if lineage := result["lineage"]:
        print(
            f"{lineage['new_images']} images came, {lineage['removed_images']} went; clusters: {lineage['kept']} kept, "
            f"{lineage['born']} born, {lineage['died']} ended; churn {lineage['churn']:.1%}"
        )
    print(f"\nreport:  {result['report']}")
    print(f"back:    {this_dxmc()} rollback {shlex.quote(result['run_dir'])}")
