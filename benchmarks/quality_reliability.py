"""The reliability diagram of the quality benchmark: how often images assigned with some confidence are right."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_PANEL, _MARGIN, _LEGEND_ROW = 240, 46, 20
#: Okabe and Ito's colours, which most people can tell apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933", "#882255")


def pooled_bins(runs: Sequence[Mapping[str, Any]]) -> list[tuple[float, float, int]]:
    """Confidence, accuracy and rows of each bin over all seeds, by confidence; bins without rows are left out."""
    pooled: dict[float, list[Mapping[str, Any]]] = {}
    for run in runs:
        for part in run.get("reliability", ()):
            pooled.setdefault(part["from"], []).append(part)
    points = []
    for _, parts in sorted(pooled.items()):
        rows = sum(part["rows"] for part in parts)
        mean = {name: sum(part[name] * part["rows"] for part in parts) / rows for name in ("confidence", "accuracy")}
        points.append((mean["confidence"], mean["accuracy"], rows))
    return points


def reliability_svg(report: Mapping[str, Any]) -> str:
    """One panel per data set, one line per method; on the diagonal a confidence of 0.8 is right in 80 of 100 cases."""
    methods, datasets = report["methods"], report["datasets"]
    width = len(datasets) * (_PANEL + _MARGIN) + _MARGIN
    height = _PANEL + 2 * _MARGIN + _LEGEND_ROW * len(methods)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for index, (name, dataset) in enumerate(datasets.items()):
        entries = [entry for entry in report["results"] if entry["dataset"] == name]
        left = _MARGIN + index * (_PANEL + _MARGIN)
        parts.append(f'<g transform="translate({left} {_MARGIN})">{_panel(dataset["title"], methods, entries)}</g>')
    for row, method in enumerate(methods):
        y = _PANEL + 2 * _MARGIN + _LEGEND_ROW * row
        parts.append(
            f'<rect x="{_MARGIN}" y="{y - 8}" width="14" height="8" fill="{_colour(row)}"/>'
            f'<text x="{_MARGIN + 20}" y="{y}">{escape(method)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _panel(title: str, methods: Sequence[str], entries: Sequence[Mapping[str, Any]]) -> str:
    ticks = "".join(
        f'<text x="{_PANEL * value}" y="{_PANEL + 14}" text-anchor="middle">{value:g}</text>'
        f'<text x="-6" y="{_PANEL * (1 - value) + 4}" text-anchor="end">{value:g}</text>'
        for value in (0.0, 0.5, 1.0)
    )
    lines = "".join(_line(entry["runs"], _colour(methods.index(entry["method"]))) for entry in entries)
    return (
        f'<rect width="{_PANEL}" height="{_PANEL}" fill="none" stroke="#bbb"/>'
        f'<line x1="0" y1="{_PANEL}" x2="{_PANEL}" y2="0" stroke="#bbb" stroke-dasharray="4 4"/>'
        f'<text x="{_PANEL / 2}" y="-12" text-anchor="middle" font-weight="bold">{escape(title)}</text>'
        f'<text x="{_PANEL / 2}" y="{_PANEL + 30}" text-anchor="middle">confidence</text>'
        f'<text transform="translate(-28 {_PANEL / 2}) rotate(-90)" text-anchor="middle">share that is right</text>'
        f"{ticks}{lines}"
    )


def _line(runs: Sequence[Mapping[str, Any]], colour: str) -> str:
    points = [(_PANEL * confidence, _PANEL * (1 - accuracy), rows) for confidence, accuracy, rows in pooled_bins(runs)]
    total = sum(rows for _, _, rows in points)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    # The area of a dot is the share of the rows that it stands for.
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{1.5 + 9 * (rows / total) ** 0.5:.1f}" fill="{colour}" '
        'fill-opacity="0.5"/>'
        for x, y, rows in points
    )
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>{dots}'


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]
