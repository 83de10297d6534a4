"""What the report asks a person, as part of stage 6: yes/no questions about clusters, and about names."""

from collections.abc import Container, Mapping, Sequence
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dxmc_core.artifacts.matrices import load_rows
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.tables import ASSIGNMENTS, CLUSTERS, QUESTIONS
from dxmc_core.edits.file import read_edits
from dxmc_core.edits.model import Apart, Edit, Together
from dxmc_core.edits.references import read_outcomes
from dxmc_core.method.clusters.proposals import NUM_SHOWN, Proposal, propose
from dxmc_core.report import Question

#: Images of a cluster that questions are found by, and of all clusters together.
MAX_OF_CLUSTER = 200
MAX_SAMPLE = 50_000
#: Images that a yes names at most on either side. Others of a large group that it moves are asked about again; others
#: of a cluster that it splits go where the nearer ones are.
_MAX_NAMED = 100
#: After so many questions about images comes one about a name.
_NAMES_EVERY = 5


def find_questions(run_dir: RunDir, *, max_questions: int, seed: int) -> pa.Table:
    """The table `questions` of a run whose clusters are assigned. What a person has answered is not asked again.

    Raises:
        ArtifactError: a stage is not finished or damaged.
        EditsError: the edits of the run cannot be used.
    """
    if max_questions == 0:
        return QUESTIONS.schema().empty_table()
    stage = run_dir.stage("assign_clusters")
    clusters = stage.read_table(CLUSTERS).to_pylist()
    assigned = stage.read_table(ASSIGNMENTS, ["row_id", "image_id", "cluster_id"])
    numbers, labels = np.unique(assigned["cluster_id"].to_numpy(), return_inverse=True)
    apart, together = _judged_pairs(read_edits(run_dir).edits)
    judged = _positions_of(assigned["image_id"], {image for pair in (*apart, *together) for image in pair})
    chosen = _sample(labels, len(numbers), seed=seed, also=list(judged.values()))
    chosen = chosen[np.argsort(assigned["row_id"].to_numpy()[chosen], kind="stable")]
    row_ids = assigned["row_id"].to_numpy()[chosen]
    places = {position: place for place, position in enumerate(chosen.tolist())}
    place_of = {image: places[position] for image, position in judged.items()}
    found = propose(
        load_rows(run_dir.stage("embed_images"), "images", row_ids).values.astype(np.float32),
        labels[chosen],
        np.bincount(labels),
        max_proposals=max_questions,
        apart=_known(apart, place_of),
        together=_known(together, place_of),
        settled=np.flatnonzero(np.isin(numbers, _settled(stage))).tolist(),
    )
    image_ids = assigned["image_id"].take(pa.array(chosen)).to_pylist()
    about_images = [_row(proposal, numbers, row_ids, image_ids) for proposal in found]
    rows = _with_names(about_images, _about_names(clusters), max_questions)
    return pa.Table.from_pylist([{**row, "rank": rank} for rank, row in enumerate(rows)], schema=QUESTIONS.schema())


def report_questions(table: pa.Table, cluster_ids: Container[int]) -> list[Question]:
    """Rows of the table `questions` as the report shows them.

    Args:
        cluster_ids: of the clusters that it shows; of others it asks nothing.
    """
    columns = ("kind", "cluster_id", "other_id", "rows", "other_rows", "image_ids", "other_ids", "num_images")
    return [
        Question(
            **{column: row[column] for column in columns},
            name=row["name"] or "",
            probability=row["probability"] or 0.0,
        )
        for row in table.to_pylist()
        if row["cluster_id"] in cluster_ids and (row["other_id"] is None or row["other_id"] in cluster_ids)
    ]


def _settled(stage: StageDir) -> list[int]:
    """Ids of the clusters that a person wants to stay as they are, or not to see."""
    found = [row["cluster_id"] for row in read_outcomes(stage) if row["kind"] in ("pin", "hide")]
    return [cluster_id for cluster_id in found if cluster_id is not None]


def _positions_of(image_ids: pa.ChunkedArray, wanted: set[str]) -> dict[str, int]:
    """Where some images are in a column; those that are gone are left out."""
    if not wanted:
        return {}
    is_wanted = pc.is_in(image_ids, value_set=pa.array(sorted(wanted), pa.string()))
    positions = np.flatnonzero(is_wanted.to_numpy())
    return dict(zip(image_ids.take(pa.array(positions)).to_pylist(), positions.tolist(), strict=True))


def _sample(labels: np.ndarray, num_clusters: int, *, seed: int, also: Sequence[int]) -> np.ndarray:
    """Positions of as many images of every cluster as there is room for, ascending.

    Args:
        labels: (N,) in 0..num_clusters-1.
        also: positions that are taken too.
    """
    room = max(min(MAX_OF_CLUSTER, MAX_SAMPLE // num_clusters), NUM_SHOWN)
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.bincount(labels, minlength=num_clusters)
    place_in_cluster = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.union1d(order[place_in_cluster < room], np.array(also, dtype=np.int64))


def _judged_pairs(edits: Sequence[Edit]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Pairs of images of which a person has said that they do not belong together, and that they do."""
    apart: list[tuple[str, str]] = []
    together: list[tuple[str, str]] = []
    for edit in edits:
        if isinstance(edit.action, Apart):
            apart += combinations([part[0] for part in edit.action.parts], 2)
        elif isinstance(edit.action, Together):
            first, *others = edit.action.images
            together += [(first, image) for image in others]
    return apart, together


def _known(pairs: Sequence[tuple[str, str]], place_of: Mapping[str, int]) -> list[tuple[int, int]]:
    """The pairs of which both images are there."""
    return [(place_of[a], place_of[b]) for a, b in pairs if a in place_of and b in place_of]


def _row(proposal: Proposal, numbers: np.ndarray, row_ids: np.ndarray, image_ids: Sequence[str]) -> dict:
    named = proposal.group[: _MAX_NAMED if proposal.kind != "merge" else 0]
    others = proposal.other[: _MAX_NAMED if proposal.kind == "split" else 0]
    return {
        "kind": proposal.kind,
        "cluster_id": int(numbers[proposal.first]),
        "other_id": None if proposal.kind == "split" else int(numbers[proposal.second]),
        "name": None,
        "probability": proposal.probability,
        "num_images": proposal.num_images,
        "rows": row_ids[proposal.group[:NUM_SHOWN]].tolist(),
        "other_rows": row_ids[proposal.other[:NUM_SHOWN]].tolist(),
        "image_ids": [image_ids[place] for place in named],
        "other_ids": [image_ids[place] for place in others],
    }


def _about_names(clusters: Sequence[dict]) -> list[dict]:
    """Questions about clusters whose name rests on little, the largest first: is the nearest noun a good one?"""
    taken = {row["name"].casefold() for row in clusters}
    rows = []
    for row in sorted(clusters, key=lambda row: (-row["size"], row["cluster_id"])):
        noun = next((name for name in row["names"] if name.casefold() not in taken), None)
        if row["name_source"] in ("unnamed", "hypernym") and noun is not None:
            rows.append(
                {
                    "kind": "rename",
                    "cluster_id": row["cluster_id"],
                    "name": noun,
                    "num_images": 0,
                    "rows": row["exemplars"][:NUM_SHOWN],
                    "other_rows": [],
                    "image_ids": [],
                    "other_ids": [],
                }
            )
    return rows


def _with_names(about_images: Sequence[dict], about_names: Sequence[dict], max_questions: int) -> list[dict]:
    """Both kinds of questions, a name after every few images."""
    rows: list[dict] = []
    names = iter(about_names)
    for number, row in enumerate(about_images, start=1):
        rows.append(row)
        if number % _NAMES_EVERY == 0 and (name := next(names, None)) is not None:
            rows.append(name)
    return [*rows, *names][:max_questions]
