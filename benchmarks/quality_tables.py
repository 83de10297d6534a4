"""Tables of the quality benchmark, with the DXMC paper's numbers beside the measured ones where there are some."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from quality_data import PAPER_SETS

#: The DXMC paper's Table 1 (CLIP ViT-B/32): ACC, NMI, ARI in percent.
_PUBLISHED_ORDER = ("stl10", "cifar10", "cifar20", "imagenet10", "imagenetdogs")
PUBLISHED = {
    method: dict(zip(_PUBLISHED_ORDER, rows.split(), strict=True))
    for method, rows in {
        "kmeans": "94.3/91.7/89.1 74.2/70.3/61.6 45.5/49.9/28.3 98.2/96.9/96.1 38.1/39.8/20.1",
        "sic": "98.1/95.3/95.9 92.6/84.7/84.4 58.3/59.3/43.9 98.2/97.0/96.1 69.7/69.0/55.8",
        "tac": "98.2/95.5/96.1 91.9/83.3/83.1 60.7/61.1/44.8 99.2/98.5/98.3 82.4/78.1/73.4",
        "dxmc": "98.3/95.8/96.7 92.8/84.7/84.9 63.3/63.4/48.4 99.4/98.2/98.6 86.1/79.1/75.0",
    }.items()
}


_PERCENT_COLUMNS = {"acc": "ACC", "nmi": "NMI", "ari": "ARI"}
_HELD_OUT_COLUMNS = {"held_out_acc": "unseen ACC", "held_out_nmi": "unseen NMI", "held_out_ari": "unseen ARI"}
_OTHER_COLUMNS = {
    "silhouette": "silhouette",
    "neighbor_agreement": "neighbor agreement",
    "turtle_score": "TURTLE score",
    "balance": "balance",
    "calibration_error": "calibration error",
    "clusters_with_rows": "clusters",
    "seconds": "seconds",
    "peak_gib": "peak GiB",
}
_COLUMNS_WITH_ONE_DIGIT = ("clusters_with_rows", "seconds")


def markdown(report: Mapping[str, Any]) -> str:
    """The report as a page: protocol, one table per data set, the mean over data sets, and published numbers."""
    protocol = report["protocol"]
    columns = {**_PERCENT_COLUMNS, **(_HELD_OUT_COLUMNS if protocol["name"] == "held_out" else {}), **_OTHER_COLUMNS}
    if not any("peak_gib" in entry["summary"] for entry in report["results"]):
        del columns["peak_gib"]
    lines = [
        f"Protocol `{protocol['name']}`: {protocol['description']}. {protocol['selection']}",
        f"ACC, NMI and ARI in percent, mean ± standard deviation over {report['num_seeds']} seeds (worst in brackets); "
        "other scores are fractions. Seconds include everything after the embeddings.",
        "",
        f"    {report['command']}",
        "",
    ]
    for name, dataset in report["datasets"].items():
        entries = [entry for entry in report["results"] if entry["dataset"] == name]
        lines += [f"### {dataset['title']} ({dataset['rows']} rows, K = {dataset['num_clusters']})", ""]
        lines += _table(columns, [(entry["method"], entry["summary"]) for entry in entries])
        lines += _picked_lines(entries)
        if name_of_published(name) is not None:
            lines += _published_lines(name, entries)
    if len(report["datasets"]) > 1:
        lines += [f"### Mean of {len(report['datasets'])} data sets", ""]
        everywhere = [method for method in report["methods"] if _is_everywhere(report, method)]
        lines += _table(columns, [(method, _mean_summary(report, method)) for method in everywhere])
    return "\n".join(lines)


def _table(columns: Mapping[str, str], rows: Sequence[tuple[str, Mapping[str, Mapping]]]) -> list[str]:
    lines = [f"| method | {' | '.join(columns.values())} |", f"|---|{'---:|' * len(columns)}"]
    for method, summary in rows:
        lines.append(f"| {method} | {' | '.join(_cell(name, summary.get(name)) for name in columns)} |")
    return [*lines, ""]


def _cell(name: str, value: Mapping[str, float | None] | None) -> str:
    if value is None:
        return "-"
    mean, std, worst = value["mean"], value["std"], value["min"]
    assert mean is not None
    assert worst is not None
    if name in _COLUMNS_WITH_ONE_DIGIT:
        return f"{mean:.1f}"
    if name == "peak_gib":
        return f"{mean:.2f}"
    if name not in _PERCENT_COLUMNS and name not in _HELD_OUT_COLUMNS:
        return f"{mean:.3f}"
    return f"{100 * mean:.1f}" + (f" ± {100 * std:.1f} ({100 * worst:.1f})" if std is not None else "")


def _is_everywhere(report: Mapping[str, Any], method: str) -> bool:
    return {entry["dataset"] for entry in report["results"] if entry["method"] == method} == set(report["datasets"])


def _mean_summary(report: Mapping[str, Any], method: str) -> dict[str, dict[str, float | None]]:
    summaries = [entry["summary"] for entry in report["results"] if entry["method"] == method]
    return {
        name: {"mean": statistics.fmean(values), "std": None, "min": min(values)}
        for name in summaries[0]
        for values in [[summary[name]["mean"] for summary in summaries if name in summary]]
    }


def _picked_lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    picked = [(entry["method"], entry["picked"]) for entry in entries if "picked" in entry]
    lines = [
        f"- {method}: seed {run['seed']} has the best {run['by']}; "
        + ", ".join(f"{title} {100 * run[name]:.1f}" for name, title in _PERCENT_COLUMNS.items())
        for method, run in picked
    ]
    return [*lines, ""] if lines else []


def name_of_published(dataset: str) -> str | None:
    """The data set's name in the paper's Table 1, or None when it is not there."""
    key = "".join(character for character in dataset.lower() if character.isalnum())
    return key if key in PAPER_SETS else None


def _published_lines(dataset: str, entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Measured beside published numbers; a method that the paper does not list has no published ones."""
    measured = {entry["method"]: entry["summary"] for entry in entries}
    lines = ["Against the DXMC paper's Table 1 (CLIP ViT-B/32; ACC / NMI / ARI):", ""]
    lines += ["| method | measured | published |", "|---|---:|---:|"]
    for method in dict.fromkeys([*measured, *PUBLISHED]):
        summary = measured.get(method)
        own = " / ".join(f"{100 * summary[name]['mean']:.1f}" for name in _PERCENT_COLUMNS) if summary else "-"
        numbers = PUBLISHED.get(method, {}).get(name_of_published(dataset) or "")
        lines.append(f"| {method} | {own} | {numbers.replace('/', ' / ') if numbers else '-'} |")
    return [*lines, ""]
