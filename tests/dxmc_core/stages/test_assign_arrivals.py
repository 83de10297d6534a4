"""A source that has changed: what stayed keeps its assignment under its new row, what is new gets one by the heads."""

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from dxmc_core.artifacts.heads import HEADS_NAME, load_heads
from dxmc_core.artifacts.matrices import load_matrix
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.stage_dir import parts_in_order
from dxmc_core.artifacts.tables import ASSIGNMENTS, CENTERS, CLUSTERS, NEAR_DUPLICATES, SELECTED_NOUNS
from dxmc_core.stages import embed_images
from dxmc_core.stages.assign_arrivals import (
    AssignArrivals,
    compare_with_base,
    describe_again,
    keep_assignments,
    keep_near_duplicates,
    parts_with_arrivals,
    read_parts,
    reference_figures,
)
from dxmc_core.stages.assign_clusters import AssignImages, assign_sample, center_table, describe_clusters, sample_images
from dxmc_core.stages.previous_clusters import with_cluster_ids
from dxmc_core.stages.settings.assign_clusters import AssignClustersConfig
from dxmc_core.stages.settings.train_heads import MethodConfig
from dxmc_core.stages.train_heads import TrainingJob, train_heads

FINGERPRINT, NIGHT = "f" * 32, "e" * 32
IDS = np.array([7, 3, 12, 5], dtype=np.int32)


@pytest.fixture(params=["kmeans", "concat_kmeans"])
def base(planted_run, request):
    """A finished run of which cluster ids are not labels."""
    run_dir = planted_run.run_dir
    names = ("embed_images", "build_semantic_space", "mine_neighbors", "train_heads", "assign_clusters")
    images, space, neighbors, trained, output = (run_dir.stage(name) for name in names)
    train_heads(TrainingJob(MethodConfig(name=request.param), 4, 0, images, space, neighbors, trained, FINGERPRINT))
    files = {HEADS_NAME: trained.describe_file(HEADS_NAME)}
    trained.publish(fingerprint=FINGERPRINT, inputs={}, tables={}, files=files, seconds=1.0)
    manifest = space.require_manifest()
    space.publish(
        fingerprint=FINGERPRINT, inputs={}, tables=manifest.tables, metrics={"temperature": 0.05}, seconds=1.0
    )
    heads = load_heads(trained)
    texts = load_matrix(space, "text_counterparts") if heads.needs_text else None
    sample = assign_sample(sample_images(images, max_images=1000, seed=0), heads, texts)
    centers = center_table(sample)
    labelled = output.write_part("centers", centers, fingerprint=FINGERPRINT)
    mapper = AssignImages(images, space, output, fingerprint=FINGERPRINT, heads=trained, centers=labelled)
    (receipt,) = mapper(pa.table({"part": [0]})).to_pylist()
    sizes = np.array(receipt["sizes"])
    clusters = describe_clusters(sample, sizes, space.read_table(SELECTED_NOUNS), AssignClustersConfig())
    (part,) = parts_in_order([receipt])
    tables = {
        "assignments": with_cluster_ids(output.read_part(part), IDS),
        "clusters": with_cluster_ids(clusters, IDS),
        "centers": with_cluster_ids(centers, IDS),
    }
    parts = {name: [output.write_part(name, table, fingerprint=FINGERPRINT)] for name, table in tables.items()}
    output.publish(fingerprint=FINGERPRINT, inputs={}, tables=parts, metrics={"ids_given": 13}, seconds=1.0)
    return run_dir


@dataclass
class Night:
    run_dir: RunDir

    @property
    def images(self):
        return self.run_dir.stage("embed_images")

    @property
    def output(self):
        return self.run_dir.stage("assign_clusters")


def night_of(tmp_path, rows, *, changed=(), name="night"):
    """A run over some rows of the planted file, in this order; of the changed ones the embedding is another's."""
    with np.load(tmp_path / "x.npz") as file:
        embeddings, ids = file["embeddings"], np.array([str(row) for row in range(240)])
    for row in changed:
        embeddings[row] = embeddings[row + 1]
    np.savez(tmp_path / f"{name}.npz", embeddings=embeddings[rows], image_ids=ids[rows])
    night = Night(RunDir.at(str(tmp_path / name)))
    source = embed_images.EmbeddingsSource(kind="embeddings", uri=str(tmp_path / f"{name}.npz"))
    catalog, done = embed_images.import_embeddings(source, night.images, fingerprint=NIGHT)
    embed_images.all_embedded(catalog, done, fingerprint=NIGHT).publish(
        catalog.stage_dir, fingerprint=NIGHT, inputs={}, started=time.perf_counter()
    )
    return night


def assign(base, night, kept, *, far=2.0):
    mapper = AssignArrivals(
        night.images, night.output, fingerprint=NIGHT, base=base, kept_rows=kept.rows, top_nouns=None, far=far
    )
    return mapper(pa.table({"part": parts_with_arrivals(night.images, kept)})).to_pylist()


def by_image(tables):
    return {row["image_id"]: row for table in tables for row in table.to_pylist()}


def test_every_image_has_one_assignment_and_the_heads_give_what_they_gave(base, tmp_path):
    full = by_image([base.read_table(ASSIGNMENTS)])
    rows = np.concatenate([[239], np.arange(10, 200), [5]])  # some are gone, others have another row
    night = night_of(tmp_path, rows, changed=(20,))
    kept = keep_assignments(base, night.images, night.output, fingerprint=NIGHT)
    assert (kept.rows.sum(), kept.num_removed) == (191, 49)
    receipts = assign(base, night, kept)
    assert [receipt["rows"] for receipt in receipts] == [1]
    assert receipts[0]["figures"]["num_images"] == 1
    found = by_image(read_parts(night.output, [*kept.parts, *parts_in_order(receipts)]))
    assert sorted(found) == sorted(str(row) for row in rows)
    for position, row in enumerate(rows):
        got, expected = found[str(row)], full[str(row + 1 if row == 20 else row)]
        assert got["row_id"] == position
        assert (got["cluster_id"], got["runner_up"]) == (expected["cluster_id"], expected["runner_up"])
        assert got["confidence"] == pytest.approx(expected["confidence"], abs=1e-5)


def test_groups_of_near_duplicates_keep_those_that_are_left():
    table = pa.table(
        {
            "row_id": [0, 1, 2, 5, 6, 8, 9],
            "image_id": list("abcdefg"),
            "group_id": [0, 0, 0, 5, 5, 8, 8],
            "group_size": [3, 3, 3, 2, 2, 2, 2],
            "copy_of": [0, 0, 0, 5, 6, 8, 9],
        }
    ).cast(NEAR_DUPLICATES.schema())
    new_rows = np.array([-1, 4, 3, 0, 1, 7, -1, 8, 2, 9])
    assert keep_near_duplicates(table, new_rows).to_pylist() == [
        {"row_id": 2, "image_id": "f", "group_id": 2, "group_size": 2, "copy_of": 2},
        {"row_id": 3, "image_id": "c", "group_id": 3, "group_size": 2, "copy_of": 3},
        {"row_id": 4, "image_id": "b", "group_id": 3, "group_size": 2, "copy_of": 3},
        {"row_id": 9, "image_id": "g", "group_id": 2, "group_size": 2, "copy_of": 9},
    ]
    assert keep_near_duplicates(table.slice(0, 0), new_rows).num_rows == 0


def test_source_that_has_not_changed_has_no_arrivals(base, tmp_path):
    night = night_of(tmp_path, np.arange(240))
    kept = keep_assignments(base, night.images, night.output, fingerprint=NIGHT)
    assert kept.rows.all()
    assert assign(base, night, kept) == []


def test_clusters_are_described_as_a_full_clustering_does(base, tmp_path):
    assigned = base.stage("assign_clusters")
    before, centers = assigned.read_table(CLUSTERS), assigned.read_table(CENTERS)
    assignments = assigned.read_table(ASSIGNMENTS)
    config = AssignClustersConfig()
    again = describe_again([assignments.slice(0, 101), assignments.slice(101)], centers, before, config)
    for row, expected in zip(again.to_pylist(), before.to_pylist(), strict=True):
        for column in ("cluster_id", "size", "name", "names", "name_evidence", "nearest_clusters"):
            assert row[column] == expected[column]
        assert row["cohesion"] == pytest.approx(expected["cohesion"], abs=1e-4)
        assert row["mean_confidence"] == pytest.approx(expected["mean_confidence"], abs=1e-5)
        # Ranks of equally central images may differ by rounding.
        assert len(set(row["exemplars"]) & set(expected["exemplars"])) >= 22
        assert row["exemplars"][0] == expected["exemplars"][0]
        assert set(row["border"]) == set(expected["border"])


def test_cluster_that_loses_all_images_ends_and_its_id_comes_back_with_them(base, planted_run, tmp_path):
    without = np.flatnonzero(planted_run.labels != 2)
    gone = int(by_image([base.read_table(ASSIGNMENTS)])["2"]["cluster_id"])
    night = night_of(tmp_path, without)
    kept = keep_assignments(base, night.images, night.output, fingerprint=NIGHT)
    comparison = compare_with_base(base, night.output, kept, [])
    kinds = {(row.kind, row.previous_id, row.cluster_id) for row in comparison.identities.lineage}
    assert kinds == {("died", gone, None), *(("kept", k, k) for k in IDS.tolist() if k != gone)}
    assert comparison.metrics() | {"previous_run": ""} == {
        "previous_run": "", "churn": 0.0, "kept": 3, "born": 0, "died": 1, "common_images": 180, "moved_images": 0,
        "new_images": 0, "removed_images": 60,
    }  # fmt: skip
    assert comparison.identities.ids_given == 13
    assigned = base.stage("assign_clusters")
    clusters = describe_again(
        read_parts(night.output, kept.parts),
        assigned.read_table(CENTERS),
        assigned.read_table(CLUSTERS),
        AssignClustersConfig(),
    )
    assert gone not in clusters["cluster_id"].to_pylist()
    tables = {
        "assignments": kept.parts,
        **{
            name: [night.output.write_part(name, table, fingerprint=NIGHT)]
            for name, table in (("clusters", clusters), ("centers", assigned.read_table(CENTERS)))
        },
    }
    night.output.publish(fingerprint=NIGHT, inputs={}, tables=tables, metrics={"ids_given": 13}, seconds=1.0)
    for name in ("build_semantic_space", "train_heads"):
        base.stage(name).copy_to(night.run_dir.stage(name), without=["text_counterparts"])
    part = night.run_dir.stage("mine_neighbors").write_part("near_duplicates", kept.near_duplicates, fingerprint=NIGHT)
    night.run_dir.stage("mine_neighbors").publish(
        fingerprint=NIGHT, inputs={}, tables={"near_duplicates": [part]}, seconds=1.0
    )
    back = night_of(tmp_path, np.arange(240), name="back")
    kept = keep_assignments(night.run_dir, back.images, back.output, fingerprint=NIGHT)
    receipts = assign(night.run_dir, back, kept)
    comparison = compare_with_base(night.run_dir, back.output, kept, parts_in_order(receipts))
    assert [(row.kind, row.cluster_id) for row in comparison.identities.lineage if row.kind != "kept"] == [
        ("born", gone)
    ]


def test_reference_is_measured_on_all_assignments(base):
    figures, far = reference_figures(base.stage("assign_clusters"))
    assert figures.num_images == 240
    assert figures.num_far == 3
    assert 1 < figures.summary()["mean_distance"] < 1.1
    assert far > 1
