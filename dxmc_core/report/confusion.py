"""The confusion table of a labelled run as a picture: classes against clusters, as one SVG."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dxmc_core.report.page import environment, writable_text

#: Every such picture has it.
CONFUSION_MARK = b" classes against "

_CELL_PX = 26
#: With more rows than this, cells shrink to a pixel grid and names are left to the tooltips.
_MAX_NAMED = 60
_SMALL_CELL_PX = 4
_NAME_PX = 170
#: Characters that no XML file may hold, escaped or not.
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def draw_confusion(classes: Sequence[Mapping[str, Any]]) -> str:
    """An SVG of the rows that `evaluation.scores.class_rows` gives; a cell is as dark as its share of the class.

    Columns stand in the order of the classes they are matched with, so what is right lies on the diagonal.
    """
    clusters: dict[int, str] = {}
    for row in classes:
        if row["matched_cluster"] is not None:
            clusters[row["matched_cluster"]] = row["matched_name"]
    for row in classes:
        for cluster in row["clusters"]:
            clusters.setdefault(cluster["cluster_id"], cluster["name"])
    named = max(len(classes), len(clusters)) <= _MAX_NAMED
    side = _CELL_PX if named else _SMALL_CELL_PX
    column_of = {cluster_id: column for column, cluster_id in enumerate(clusters)}
    cells = [
        {
            "x": column_of[cluster["cluster_id"]] * side,
            "y": line * side,
            "share": cluster["images"] / row["images"],
            "images": cluster["images"],
            "label": row["label"],
            "cluster": cluster["name"],
        }
        for line, row in enumerate(classes)
        for cluster in row["clusters"]
    ]
    margin = _NAME_PX if named else 2 * side
    svg = (
        environment()
        .get_template("confusion.svg")
        .render(
            classes=[row["label"] for row in classes],
            clusters=list(clusters.values()),
            cells=cells,
            named=named,
            side=side,
            margin=margin,
            # Names of columns are written upwards to the right.
            width=margin + len(clusters) * side + (_NAME_PX // 2 if named else side),
            height=margin + len(classes) * side + side,
        )
    )
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", writable_text(svg))
