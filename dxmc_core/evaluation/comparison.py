"""Two runs over the same images: how far their clusters agree, and which clusters differ most."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import ASSIGNMENTS
from dxmc_core.errors import InputError
from dxmc_core.evaluation.scores import cluster_names, evaluate_run
from dxmc_core.method.clusters.metrics import CrossTable, cross_tabulate, external_scores

_SHOWN_DESTINATIONS = 3


def compare_runs(first: RunDir, second: RunDir, *, labels_uri: str | None = None, seed: int = 0) -> dict:
    """Agreement of two finished runs on the images they have in common, by image_id; fractions in 0..1.

    Returns:
        common_images and only_in (images that just one run has), agreement (matched_share: images that are in the same
        cluster under the best one-to-one matching of clusters; nmi, ari), changed_clusters (those of the first run,
        the most images in other clusters first), and scores: what `evaluate_run` says of each.

    Raises:
        ArtifactError: a run is not finished.
        InputError: the runs have no image in common, or the labels cannot be used.
    """
    one, other = _assignments(first), _assignments(second)
    common = one.join(other, "image_id", join_type="inner", right_suffix="_second")
    if common.num_rows == 0:
        raise InputError(
            f"{first.uri} and {second.uri} have no image_id in common: {one['image_id'][0]} is one of the first, "
            f"{other['image_id'][0]} one of the second"
        )
    labels = common["cluster_id"].to_numpy(), common["cluster_id_second"].to_numpy()
    scores = external_scores(*labels)
    return {
        "runs": [first.uri, second.uri],
        "common_images": common.num_rows,
        "only_in": [one.num_rows - common.num_rows, other.num_rows - common.num_rows],
        "agreement": {"matched_share": scores["acc"], "nmi": scores["nmi"], "ari": scores["ari"]},
        "changed_clusters": _changes(cross_tabulate(*labels), cluster_names(first), cluster_names(second)),
        "scores": [evaluate_run(run, labels_uri=labels_uri, seed=seed) for run in (first, second)],
    }


def _assignments(run_dir: RunDir) -> pa.Table:
    return run_dir.read_table(ASSIGNMENTS, ["image_id", "cluster_id"])


def _changes(table: CrossTable, names: Mapping[int, str], other_names: Mapping[int, str]) -> list[dict]:
    rows = []
    for position, cluster_id in enumerate(table.first.tolist()):
        counts, column = table.counts[position], int(table.matched[position])
        others = [int(at) for at in np.argsort(-counts, kind="stable") if counts[at] and at != column]
        kept = int(table.num_matched[position])
        rows.append(
            {
                "cluster_id": cluster_id,
                "name": names.get(cluster_id, str(cluster_id)),
                "images": int(counts.sum()),
                "moved": int(counts.sum()) - kept,
                "matched": _cluster(table, column, kept, other_names) if column >= 0 else None,
                "moved_to": [_cluster(table, at, int(counts[at]), other_names) for at in others[:_SHOWN_DESTINATIONS]],
            }
        )
    return sorted(rows, key=lambda row: (-row["moved"], row["cluster_id"]))


def _cluster(table: CrossTable, column: int, images: int, names: Mapping[int, str]) -> dict:
    cluster_id = int(table.second[column])
    return {"cluster_id": cluster_id, "name": names.get(cluster_id, str(cluster_id)), "images": images}
