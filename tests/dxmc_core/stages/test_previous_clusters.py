"""Ids taken over from an earlier run: images are matched by image_id, tables are renumbered, the lineage is written."""

import numpy as np
import pyarrow as pa
import pytest

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.stage_dir import parts_in_order
from dxmc_core.artifacts.tables import ASSIGNMENTS, CLUSTERS, LINEAGE
from dxmc_core.errors import ArtifactError, InputError
from dxmc_core.stages.previous_clusters import (
    RenumberAssignments,
    compare_with_previous,
    lineage_table,
    with_cluster_ids,
)
from dxmc_core.stages.settings.assign_clusters import previous_manifest

FINGERPRINT = "c" * 32


def assignments(image_ids, cluster_ids):
    count = len(image_ids)
    values = np.zeros(count, dtype=np.float32)
    return pa.table(
        {
            "row_id": np.arange(count), "image_id": image_ids, "cluster_id": pa.array(cluster_ids, pa.int32()),
            "confidence": values, "runner_up": pa.array([0] * count, pa.int32()), "margin": values,
            "outlier_score": values,
        }
    ).cast(ASSIGNMENTS.schema())  # fmt: skip


def clusters(sizes, names):
    rows = [
        {
            "cluster_id": cluster_id, "size": size, "name": names[cluster_id], "names": [], "name_evidence": [],
            "name_source": "noun", "exemplars": [], "border": [], "cohesion": 0.0, "mean_confidence": 0.0,
            "nearest_clusters": [],
        }
        for cluster_id, size in sizes.items()
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=CLUSTERS.schema())


def publish_run(uri, parts, *, metrics):
    """A finished assign_clusters: parts are pairs of image ids and cluster ids."""
    stage = RunDir.at(uri).stage("assign_clusters")
    ids, sizes = np.unique(np.concatenate([part[1] for part in parts]), return_counts=True)
    described = clusters(
        dict(zip(ids.tolist(), sizes.tolist(), strict=True)), {key: f"name {key}" for key in ids.tolist()}
    )
    tables = {"assignments": [assignments(*part) for part in parts], "clusters": [described]}
    written = {
        name: [stage.write_part(name, table, fingerprint=FINGERPRINT) for table in each]
        for name, each in tables.items()
    }
    stage.publish(fingerprint=FINGERPRINT, inputs={}, tables=written, metrics=metrics, seconds=1.0)
    return uri


@pytest.fixture
def previous(tmp_path):
    parts = [(["a", "b", "c"], [5, 5, 5]), (["d", "e", "old"], [2, 2, 7])]
    return publish_run(str(tmp_path / "previous"), parts, metrics={"ids_given": 9})


@pytest.fixture
def output(tmp_path):
    return RunDir.at(str(tmp_path / "run")).stage("assign_clusters")


def read(output, parts):
    return [output.read_part(part) for part in parts]


def write_parts(output, parts):
    return [output.write_part("assignments", assignments(*part), fingerprint=FINGERPRINT) for part in parts]


def test_clusters_keep_their_ids_whatever_the_order_of_images_and_parts(previous, output):
    parts = write_parts(output, [(["e", "new", "c"], [0, 2, 1]), (["b", "d", "a"], [1, 0, 1])])
    comparison = compare_with_previous(previous, read(output, parts), np.array([2, 3, 1]))
    assert comparison.identities.cluster_ids.tolist() == [2, 5, 9]
    assert comparison.metrics() == {
        "previous_run": previous, "churn": 0.0, "kept": 2, "born": 1, "died": 1,
        "common_images": 5, "moved_images": 0, "new_images": 1, "removed_images": 1,
    }  # fmt: skip
    assert comparison.identities.ids_given == 10


def test_renumbered_parts_hold_the_same_images_with_final_ids(previous, output):
    parts = write_parts(output, [(["a", "b"], [1, 1]), (["d", "e"], [0, 0])])
    comparison = compare_with_previous(previous, read(output, parts), np.array([2, 2]))
    mapper = RenumberAssignments(
        output, fingerprint=FINGERPRINT, parts=parts, cluster_ids=comparison.identities.cluster_ids
    )
    receipts = mapper(pa.table({"part": [1, 0]})).to_pylist()
    assert [receipt["part"] for receipt in receipts] == [1, 0]
    output.publish(
        fingerprint=FINGERPRINT, inputs={}, tables={"assignments": parts_in_order(receipts)}, metrics={}, seconds=1.0
    )
    table = output.read_table(ASSIGNMENTS)
    assert table["image_id"].to_pylist() == ["a", "b", "d", "e"]
    assert table["cluster_id"].to_pylist() == [5, 5, 2, 2]
    assert table["runner_up"].to_pylist() == [2] * 4


def test_the_lineage_names_both_sides(previous, output):
    parts = write_parts(output, [(["a", "b", "c", "d", "e"], [0, 0, 0, 0, 1])])
    comparison = compare_with_previous(previous, read(output, parts), np.array([4, 1]))
    table = lineage_table(comparison, clusters({5: 4, 9: 1}, {5: "name 5", 9: "fresh"}))
    assert table.schema == LINEAGE.schema()
    rows = [
        (row["relation"], row["previous_id"], row["cluster_id"], row["previous_name"], row["name"], row["overlap"])
        for row in table.to_pylist()
    ]
    assert rows == [
        ("kept", 5, 5, "name 5", "name 5", 3),
        ("split", 2, 9, "name 2", "fresh", 1),
        ("died", 2, None, "name 2", None, 0),
        ("died", 7, None, "name 7", None, 0),
    ]
    assert table["previous_size"].to_pylist() == [3, 2, 2, 1]


def test_without_an_earlier_run_the_lineage_is_empty():
    table = lineage_table(None, clusters({0: 1}, {0: "x"}))
    assert (table.num_rows, table.schema) == (0, LINEAGE.schema())


def test_runs_without_common_images_are_refused(previous, output):
    parts = write_parts(output, [(["x", "y"], [0, 1])])
    with pytest.raises(InputError, match="shares no image_id"):
        compare_with_previous(previous, read(output, parts), np.array([1, 1]))


def test_an_earlier_run_that_is_not_finished(tmp_path, output):
    assert previous_manifest(str(tmp_path / "none")) is None
    with pytest.raises(InputError, match="is not finished"):
        compare_with_previous(str(tmp_path / "none"), [], np.array([1, 1]))


def test_an_earlier_run_that_did_not_count_its_ids(tmp_path):
    uri = publish_run(str(tmp_path / "old"), [(["a"], [0])], metrics={})
    with pytest.raises(InputError, match="older dxmc"):
        previous_manifest(uri)


def test_an_earlier_run_that_is_damaged(previous, output):
    stage = RunDir.at(previous).stage("assign_clusters")
    part = stage.require_manifest().tables["assignments"][0]
    stage.storage.write_bytes(part.name, b"PAR1")
    with pytest.raises(ArtifactError, match="is damaged"):
        compare_with_previous(previous, read(output, write_parts(output, [(["a"], [0])])), np.array([1, 0]))


def test_labels_become_ids_in_every_column_that_holds_some():
    table = pa.table(
        {
            "cluster_id": pa.array([1, None, 0], pa.int32()),
            "runner_up": pa.array([0, 1, 1], pa.int32()),
            "nearest_clusters": pa.array([[0, 1], [], [1]], pa.list_(pa.int32())),
            "size": [1, 2, 3],
        }
    )
    ids = np.array([40, 30], dtype=np.int32)
    expected = {
        "cluster_id": [30, None, 40], "runner_up": [40, 30, 30], "nearest_clusters": [[40, 30], [], [30]],
        "size": [1, 2, 3],
    }  # fmt: skip
    assert with_cluster_ids(table, ids).to_pydict() == expected
    assert with_cluster_ids(table, ids).schema == table.schema
    sliced = with_cluster_ids(table.slice(1), ids)
    assert sliced.to_pydict() == {name: values[1:] for name, values in expected.items()}
