"""`dxmc status`: what a run directory holds and what a rerun would do."""

import argparse
import json
from typing import Any

from dxmc_core.artifacts.generations import read_record
from ray_jobs.context import RunContext, StageState, stage_states
from ray_jobs.main import job_of

NAME = "status"
SUMMARY = "Show what a run directory holds and what a rerun would do."
EXAMPLES = """\
dxmc status runs/laptop
dxmc status s3://bucket/runs/first --json"""
_WILL = {
    "done": "done",
    "stale": "changed: a rerun rebuilds it",
    "missing": "not done: a rerun runs it",
    "waiting": "waits for an earlier stage",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR")


def execute(arguments: argparse.Namespace) -> None:
    context = RunContext.open(arguments.run_dir)
    record = read_record(context.run_dir)
    states = (
        stage_states(context, {name: job_of(name) for name in context.stages}) if record is None else _made(context)
    )
    if arguments.json:
        result = {
            "run_dir": context.run_dir.uri,
            "generation": None if record is None else record.model_dump(),
            "stages": [_row(state) for state in states],
        }
        print(json.dumps(result, indent=1))
        return
    print(context.run_dir.uri)
    if record is not None:
        print(f"  generation {record.number}, {record.published_at}: {record.mode}, because {record.reason}")
    for state in states:
        print(f"  {state.name:<21} {_WILL[state.state]:<30} {_facts(context, state)}".rstrip())
    if states[0].manifest:
        reasons = states[0].manifest.metrics["reject_reasons"]
        print("rejects: " + (", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "none"))


def _facts(context: RunContext, state: StageState) -> str:
    """How long a stage took, and what it made in the words of its job unless it is of another version."""
    if state.manifest is None:
        return ""
    made = job_of(state.name).summary(context) if state.state == "done" else ""
    return f"{state.manifest.seconds:>9.1f} s  {made}"


def _made(context: RunContext) -> list[StageState]:
    """The stages that a published generation has; nothing rebuilds them."""
    manifests = {name: context.manifest(name) for name in context.stages}
    return [
        StageState(name, "done", manifest.fingerprint, manifest)
        for name, manifest in manifests.items()
        if manifest is not None
    ]


def _row(state: StageState) -> dict[str, Any]:
    manifest = state.manifest
    return {
        "stage": state.name,
        "state": state.state,
        "rows": max((manifest.rows(table) for table in manifest.tables), default=0) if manifest else 0,
        "seconds": manifest.seconds if manifest else 0.0,
        "finished_at": manifest.finished_at if manifest else None,
        "metrics": manifest.metrics if manifest else {},
    }
