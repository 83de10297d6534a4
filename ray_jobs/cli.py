"""The console script `dxmc`."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dxmc_core import __version__
from dxmc_core.artifacts.run_dir import STAGES, RunDir
from dxmc_core.config import parse_config
from dxmc_core.errors import InputError
from ray_jobs.context import RUN_NAME, RunContext, StageState, stage_states
from ray_jobs.main import STAGE_NAMES, add_run_arguments, guarded, job_of, run

_EXAMPLES = """\
examples:
  dxmc run --config configs/laptop.yaml --set source.uri=~/Pictures
  dxmc run --config configs/laptop.yaml --set method.name=kmeans      rebuilds only what depends on it
  dxmc status runs/laptop
  dxmc evaluate runs/demo --json
"""
_SHOWN_CLUSTERS = 12


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run the command, exit with its code."""
    parsed = _parser().parse_args(arguments)
    sys.exit(guarded(lambda: parsed.command(parsed)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dxmc",
        description="Clusters unlabeled images by CLIP embeddings and names every cluster.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dxmc {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], None], summary: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, help=summary, description=summary)
        subparser.set_defaults(command=command)
        return subparser

    add_run_arguments(add("run", _run, "Run the pipeline; finished stages are skipped, a killed run goes on."))

    status = add("status", _status, "Show what a run directory holds and what a rerun would do.")
    status.add_argument("run_dir", metavar="RUN_DIR")
    status.add_argument("--json", action="store_true", help="print JSON")

    evaluate = add("evaluate", _evaluate, "Score a finished run, against labels where they are known.")
    evaluate.add_argument("run_dir", metavar="RUN_DIR")
    evaluate.add_argument("--labels", metavar="FILE", help=".csv or .parquet with the columns image_id and label")
    evaluate.add_argument("--json", action="store_true", help="print JSON")

    report = add("report", _report, "Copy the report of a finished run to a place of its own.")
    report.add_argument("run_dir", metavar="RUN_DIR")
    report.add_argument("--output", metavar="FILE", default="report.html")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    context = run(STAGE_NAMES, arguments)
    _print_summary(context)


def _print_summary(context: RunContext) -> None:
    """What came out, and what to type next."""
    from dxmc_core.evaluation import evaluate_run

    stage = context.stage("assign_clusters")
    clusters = sorted(stage.read_table("clusters").to_pylist(), key=lambda row: -row["size"])
    embedded = context.stage("embed_images").require_manifest().metrics
    print(f"\n{embedded['images']} images in {len(clusters)} clusters, {embedded['rejects']} could not be used")
    for row in clusters[:_SHOWN_CLUSTERS]:
        print(f"  {row['size']:>8}  {row['name']}")
    if len(clusters) > _SHOWN_CLUSTERS:
        print(f"  {'...':>8}  {len(clusters) - _SHOWN_CLUSTERS} more")
    external = evaluate_run(context.run_dir, seed=context.config.seed).get("external")
    if external:
        print("against the labels: " + "  ".join(f"{name.upper()} {value:.3f}" for name, value in external.items()))
    uri = context.run_dir.uri
    print(f"\nreport:       {context.stage('write_report').storage.uri}/index.html")
    print(f"assignments:  {stage.storage.uri}/assignments/*.parquet")
    print(f"next:         dxmc status {uri}\n              dxmc evaluate {uri}")


def _open_run(run_dir_uri: str) -> RunContext:
    run_dir = RunDir.at(run_dir_uri)
    try:
        record = json.loads(run_dir.storage.read_bytes(RUN_NAME))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{run_dir.uri} is not a run directory: it has no {RUN_NAME}") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{run_dir.uri}/{RUN_NAME} is damaged: {error}") from error
    config = parse_config({**record["config"], "run_dir": run_dir.uri}, where=f"{run_dir.uri}/{RUN_NAME}")
    return RunContext(config, run_dir)


def _status(arguments: argparse.Namespace) -> None:
    context = _open_run(arguments.run_dir)
    states = stage_states(context, {name: job_of(name) for name in STAGES})
    if arguments.json:
        print(json.dumps({"run_dir": context.run_dir.uri, "stages": [_state_row(state) for state in states]}, indent=1))
        return
    print(context.run_dir.uri)
    for state in states:
        row = _state_row(state)
        facts = f"{row['rows']:>10} rows {row['seconds']:>8.1f} s" if state.manifest else ""
        print(f"  {state.name:<21} {_WILL[state.state]:<38} {facts}".rstrip())
    if states[0].manifest:
        reasons = states[0].manifest.metrics["reject_reasons"]
        print("rejects: " + (", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "none"))


_WILL = {
    "done": "done",
    "stale": "changed: a rerun rebuilds it",
    "missing": "not done: a rerun runs it",
    "waiting": "waits for an earlier stage",
}


def _state_row(state: StageState) -> dict[str, Any]:
    manifest = state.manifest
    return {
        "stage": state.name,
        "state": state.state,
        "rows": max((manifest.rows(table) for table in manifest.tables), default=0) if manifest else 0,
        "seconds": manifest.seconds if manifest else 0.0,
        "finished_at": manifest.finished_at if manifest else None,
        "metrics": manifest.metrics if manifest else {},
    }


def _evaluate(arguments: argparse.Namespace) -> None:
    from dxmc_core.evaluation import evaluate_run

    result = evaluate_run(RunDir.at(arguments.run_dir), labels_uri=arguments.labels)
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{result['images']} images in {result['clusters']} clusters")
    if "external" in result:
        scores = "  ".join(f"{name.upper()} {value:.4f}" for name, value in result["external"].items())
        print(f"against {result['labelled_images']} labels: {scores}")
    print("label-free: " + "  ".join(f"{name} {value:.4f}" for name, value in result["label_free"].items()))


def _report(arguments: argparse.Namespace) -> None:
    page = RunDir.at(arguments.run_dir).stage("write_report").read_file("index.html")
    output = Path(arguments.output).expanduser()
    try:
        output.write_bytes(page)
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}") from error
    print(output)


if __name__ == "__main__":
    main()
