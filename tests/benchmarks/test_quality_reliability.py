"""The reliability diagram: bins pooled over seeds by their rows, and an SVG that names what it shows."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
import quality_reliability as reliability

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def bins(*parts):
    names = ("from", "confidence", "accuracy", "rows")
    return {"reliability": [dict(zip(names, part, strict=True)) for part in parts]}


RUNS = [bins((0.5, 0.5, 0.4, 10), (0.9, 0.95, 1.0, 10)), bins((0.5, 0.6, 0.8, 30))]


def test_bins_are_pooled_by_their_rows():
    assert reliability.pooled_bins(RUNS) == [
        (pytest.approx(0.575), pytest.approx(0.7), 40),
        (pytest.approx(0.95), pytest.approx(1.0), 10),
    ]


def test_diagram_has_a_panel_a_data_set_and_a_line_a_method():
    report = {
        "methods": ["kmeans", "best"],
        "datasets": {"a": {"title": "<photos>"}, "b": {"title": "textures"}},
        "results": [
            {"dataset": name, "method": method, "runs": RUNS} for name in ("a", "b") for method in ("kmeans", "best")
        ],
    }
    root = ElementTree.fromstring(reliability.reliability_svg(report))
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f".//{space}polyline")) == 4
    assert len(root.findall(f".//{space}circle")) == 8
    assert {"<photos>", "textures", "kmeans", "best"} <= {text.text for text in root.iter(f"{space}text")}
