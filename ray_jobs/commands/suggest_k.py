"""`dxmc suggest-k`: how many clusters there may be, without labels."""

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ray_jobs.progress import snapshot

if TYPE_CHECKING:
    from ray_jobs.context import RunContext


NAME = "suggest-k"
SUMMARY = "Score numbers of clusters on a run that has embeddings, and suggest three."
EXAMPLES = """\
dxmc suggest-k runs/laptop           prints scores over K and writes a plot of them
dxmc suggest-k runs/laptop --json"""
_BAR_WIDTH = 30
_CAUTION = "Two halves of the images agree on no number of clusters: take these with caution."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR", help="where embed_images is done")


def execute(arguments: argparse.Namespace) -> None:
    from dxmc_core.artifacts.run_dir import CHOICE_OF_K
    from dxmc_core.artifacts.tables import K_SCORES
    from dxmc_core.stages.settings.suggest_k import PLOT_NAME
    from ray_jobs.context import RunContext
    from ray_jobs.main import run_in_order

    context = RunContext.open(arguments.run_dir)
    with context.run_dir.locked(snapshot):
        run_in_order(context, [CHOICE_OF_K])
    stage = context.stage(CHOICE_OF_K)
    result = {
        "run_dir": context.run_dir.uri,
        **stage.require_manifest().metrics,
        "suggestions": suggestions(context),
        "scores": stage.read_table(K_SCORES).to_pylist(),
        "plot": f"{stage.storage.uri}/{PLOT_NAME}",
    }
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        _print(result)


def suggestions(context: "RunContext") -> list[dict[str, Any]]:
    """The rows of `k_scores` that are suggested, the best first."""
    from dxmc_core.artifacts.run_dir import CHOICE_OF_K
    from dxmc_core.artifacts.tables import K_SCORES

    rows = context.stage(CHOICE_OF_K).read_table(K_SCORES).to_pylist()
    return sorted((row for row in rows if row["rank"] is not None), key=lambda row: row["rank"])


def _print(result: dict[str, Any]) -> None:
    _print_scores(result["scores"])
    print(f"\nbest of the scores, on {result['scored_images']} images and without labels:")
    for row in result["suggestions"]:
        print(f"  K = {row['num_clusters']:<6} {row['overall']:.2f}  {row['reason']}")
    if not result["has_structure"]:
        print(_CAUTION)
    print(f"\nplot:  {result['plot']}")
    print(f"next:  the run's own command once more, with --set num_clusters={result['num_clusters']}")


def _print_scores(rows: Sequence[dict[str, Any]]) -> None:
    """The table over K, with a bar for the overall score and the suggestions marked."""
    print(f"{'K':>6}  {'stability':>9}  {'separability':>12}  {'compactness':>11}  overall")
    for row in rows:
        bar = "#" * round(_BAR_WIDTH * row["overall"])
        mark = f"  <- {row['rank']}" if row["rank"] else ""
        scores = f"{row['stability']:>9.3f}  {row['separability']:>12.3f}  {row['compactness']:>11.3f}"
        print(f"{row['num_clusters']:>6}  {scores}  {row['overall']:.2f} {bar:<{_BAR_WIDTH}}{mark}".rstrip())
