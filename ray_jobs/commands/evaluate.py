"""`dxmc evaluate`: scores of a finished run, or of two against each other."""

import argparse
import json
from typing import Any

from dxmc_core.errors import InputError

NAME = "evaluate"
SUMMARY = "Score a finished run, against labels where they are known, or compare two runs."
EXAMPLES = """\
dxmc evaluate runs/demo --confusion confusion.svg
dxmc evaluate runs/laptop --labels labels.csv --json
dxmc evaluate runs/laptop --labels parent_folder                    labels are the folders of the image ids
dxmc evaluate --compare runs/monday runs/tuesday"""
_SHOWN_CLASSES = 20
_SHOWN_CHANGES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR", nargs="?")
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help=".csv or .parquet with the columns image_id and label, or parent_folder; by default the source's",
    )
    parser.add_argument("--confusion", metavar="FILE", help="draw classes against clusters into an .svg file")
    parser.add_argument(
        "--compare", metavar="RUN_DIR", nargs=2, help="two runs over the same images: agreement, changes, scores"
    )


def execute(arguments: argparse.Namespace) -> None:
    from dxmc_core.artifacts.generations import open_run_dir
    from dxmc_core.artifacts.storage import write_output
    from dxmc_core.evaluation.comparison import compare_runs
    from dxmc_core.evaluation.scores import evaluate_run
    from dxmc_core.report.confusion import CONFUSION_MARK, draw_confusion

    if (arguments.run_dir is None) == (arguments.compare is None):
        raise InputError("expected one RUN_DIR, or two after --compare")
    if arguments.compare is not None:
        if arguments.confusion is not None:
            raise InputError("--confusion draws one run against labels; it does not go with --compare")
        first, second = (open_run_dir(uri) for uri in arguments.compare)
        comparison = compare_runs(first, second, labels_uri=arguments.labels)
        _show(arguments, comparison, _print_comparison)
        return
    result = evaluate_run(open_run_dir(arguments.run_dir), labels_uri=arguments.labels, with_names=True)
    if arguments.confusion is not None:
        if "classes" not in result:
            raise InputError(f"{arguments.run_dir} has no labels to draw; give some with --labels")
        picture = draw_confusion(result["classes"]).encode()
        result["confusion"] = write_output(arguments.confusion, picture, mark=CONFUSION_MARK)
    _show(arguments, result, _print_scores)


def _show(arguments: argparse.Namespace, result: dict[str, Any], print_text: Any) -> None:
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        print_text(result)


def _print_scores(result: dict[str, Any]) -> None:
    print(f"{result['images']} images in {result['clusters']} clusters")
    if "external" in result:
        without = result["images"] - result["labelled_images"]
        left_out = f" ({without} images have none)" if without else ""
        print(f"against {result['labelled_images']} labels{left_out}: {_scores(result['external'], upper=True)}")
    print(f"label-free: {_scores(result['label_free'])}")
    if "names" in result:
        _print_names(result["names"])
    if "classes" in result:
        _print_classes(result["classes"])
    if "confusion" in result:
        print(f"\nconfusion:  {result['confusion']}")


def _print_names(names: dict[str, int]) -> None:
    known = sum(names.values()) - names["unknown"]
    print(
        f"names of {known} clusters whose commonest class is in WordNet: {names['equal']} are that class, "
        f"{names['synonym']} another word for it, {names['hypernym']} are above it, {names['hyponym']} below it, "
        f"{names['sibling']} beside it, {names['other']} are another thing, {names['unnamed']} have none"
    )


def _print_classes(classes: list[dict[str, Any]]) -> None:
    ordered = sorted(classes, key=lambda row: (row["recall"], row["label"]))
    print(f"\n{'class':<24} {'images':>8} {'recall':>7} {'precision':>10}  matched cluster, and where others went")
    for row in ordered[:_SHOWN_CLASSES]:
        others = [cluster for cluster in row["clusters"] if cluster["cluster_id"] != row["matched_cluster"]]
        went = ", ".join(f"{cluster['name']} {cluster['images']}" for cluster in others[:2])
        matched = row["matched_name"] or "none"
        print(
            f"{row['label'][:24]:<24} {row['images']:>8} {row['recall']:>7.3f} {row['precision']:>10.3f}  {matched}"
            + (f"; {went}" if went else "")
        )
    if len(ordered) > _SHOWN_CLASSES:
        print(f"{'...':<24} {len(ordered) - _SHOWN_CLASSES} more, all of higher recall; --json has them")


def _print_comparison(result: dict[str, Any]) -> None:
    first, second = result["runs"]
    print(f"A  {first}\nB  {second}")
    print(
        f"{result['common_images']} images in both, {result['only_in'][0]} only in A, {result['only_in'][1]} only in B"
    )
    print(f"agreement: {_scores(result['agreement'])}")
    names = list(dict.fromkeys(name for run in result["scores"] for name in _flat_scores(run)))
    print(f"\n{'score':<20} {'A':>9} {'B':>9}")
    for name in names:
        values = [_flat_scores(run).get(name) for run in result["scores"]]
        print(f"{name:<20} " + " ".join(f"{'-':>9}" if value is None else f"{value:>9.4f}" for value in values))
    changed = [row for row in result["changed_clusters"] if row["moved"]][:_SHOWN_CHANGES]
    if changed:
        print(f"\n{'cluster of A':<24} {'images':>8} {'moved':>8}  stayed in, and moved to")
    for row in changed:
        stayed = f"{row['matched']['name']} {row['matched']['images']}" if row["matched"] else "nowhere"
        went = ", ".join(f"{cluster['name']} {cluster['images']}" for cluster in row["moved_to"])
        print(f"{row['name'][:24]:<24} {row['images']:>8} {row['moved']:>8}  {stayed}; {went}")


def _flat_scores(result: dict[str, Any]) -> dict[str, float]:
    external = {name.upper(): value for name, value in result.get("external", {}).items()}
    return external | result["label_free"]


def _scores(scores: dict[str, float], *, upper: bool = False) -> str:
    return "  ".join(f"{name.upper() if upper else name} {value:.4f}" for name, value in scores.items())
