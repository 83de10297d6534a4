"""Every image is assigned, every cluster described."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from dxmc_core.artifacts.heads import HEADS_NAME, load_heads
from dxmc_core.artifacts.joined_images import IMAGE_TABLES, image_tables_of, load_image_rows, load_images
from dxmc_core.artifacts.matrices import embedding_column, load_matrix
from dxmc_core.artifacts.stage_dir import parts_in_order
from dxmc_core.artifacts.tables import CLUSTER_TREE, IMAGES, NOUNS
from dxmc_core.errors import ArtifactError
from dxmc_core.method.clusters.cluster_sample import outlier_scores
from dxmc_core.method.clusters.metrics import clustering_accuracy
from dxmc_core.stages.assign_clusters import (
    AssignImages,
    assign_sample,
    center_table,
    describe_clusters,
    describe_tree,
    sample_images,
)
from dxmc_core.stages.settings.assign_clusters import AssignClustersConfig
from dxmc_core.stages.settings.train_heads import MethodConfig
from dxmc_core.stages.train_heads import TrainingJob, find_best_start, read_start, train_heads

FINGERPRINT = "f" * 32


@pytest.fixture(params=["kmeans", "concat_kmeans"])
def assigned(planted_run, request):
    """The stage directories of a run with trained heads, the sample, and the assignments (AssignImages' result)."""
    names = ("embed_images", "build_semantic_space", "mine_neighbors", "train_heads", "assign_clusters")
    images, space, neighbors, trained, output = (planted_run.run_dir.stage(name) for name in names)
    job = TrainingJob(MethodConfig(name=request.param), 4, 0, images, space, neighbors, trained, FINGERPRINT)
    train_heads(job)
    files = {HEADS_NAME: trained.describe_file(HEADS_NAME)}
    trained.publish(fingerprint=FINGERPRINT, inputs={}, tables={}, files=files, seconds=1.0)
    heads = load_heads(trained)
    texts = load_matrix(space, "text_counterparts") if heads.needs_text else None
    sample = assign_sample(sample_images(images, max_images=1000, seed=0), heads, texts)
    centers = output.write_part("centers", center_table(sample), fingerprint=FINGERPRINT)
    mapper = AssignImages(images, space, output, fingerprint=FINGERPRINT, heads=trained, centers=centers)
    receipts = mapper(pa.table({"part": [0]})).to_pylist()
    return planted_run, sample, receipts, output.read_part(parts_in_order(receipts)[0])


def test_every_image_is_assigned_to_its_group(assigned):
    run, sample, receipts, table = assigned
    assert table["row_id"].to_pylist() == list(range(240))
    assert clustering_accuracy(run.labels, table["cluster_id"].to_numpy()) == 1
    assert sorted(receipts[0]["sizes"]) == [60] * 4
    assert (table["runner_up"].to_numpy() != table["cluster_id"].to_numpy()).all()
    confidence, margin = table["confidence"].to_numpy(), table["margin"].to_numpy()
    assert ((margin >= 0) & (margin <= confidence) & (confidence <= 1)).all()
    assert np.array_equal(sample.labels, table["cluster_id"].to_numpy())


def test_clusters_are_named_and_their_exemplars_lie_at_the_centre(assigned):
    run, sample, receipts, _ = assigned
    nouns = run.run_dir.read_table(NOUNS)
    config = AssignClustersConfig(num_exemplars=3, num_border=2)
    rows = describe_clusters(sample, np.array(receipts[0]["sizes"]), nouns, config).to_pylist()
    words = ["apple", "bicycle", "castle", "dolphin"]
    for row in rows:
        group = run.labels[row["exemplars"][0]]
        assert row["name"].split()[0] == words[group]
        assert (len(row["exemplars"]), len(row["border"]), row["size"]) == (3, 2, 60)
        assert set(row["nearest_clusters"]) == {0, 1, 2, 3} - {row["cluster_id"]}
        similarity = sample.embeddings[row["exemplars"]] @ sample.centers[row["cluster_id"]]
        assert (np.diff(similarity) <= 0).all()
    assert len({row["name"] for row in rows}) == 4


def test_the_tree_holds_every_cluster_once_and_adds_up(assigned):
    run, sample, receipts, _ = assigned
    nouns = run.run_dir.read_table(NOUNS)
    sizes = np.array(receipts[0]["sizes"])
    clusters = describe_clusters(sample, sizes, nouns, AssignClustersConfig())
    table = describe_tree(sample.centers, clusters)
    assert table.schema.equals(CLUSTER_TREE.schema())
    nodes = table.to_pylist()
    leaves, inner = nodes[:4], nodes[4:]
    assert [leaf["cluster_id"] for leaf in leaves] == clusters["cluster_id"].to_pylist()
    assert [leaf["name"] for leaf in leaves] == clusters["name"].to_pylist()
    assert len(inner) == 3
    for node in inner:
        children = [child for child in nodes if child["parent"] == node["node_id"]]
        assert len(children) == 2
        assert node["cluster_id"] is None
        assert node["size"] == sum(child["size"] for child in children)
        assert node["num_clusters"] == sum(child["num_clusters"] for child in children)
        assert all(child["node_id"] < node["node_id"] and child["height"] <= node["height"] for child in children)
        assert node["name_source"] in ("noun", "members")  # the planted nouns have no synsets
    assert (nodes[-1]["parent"], nodes[-1]["size"], nodes[-1]["num_clusters"]) == (None, 240, 4)


def test_large_sources_are_described_by_a_seeded_sample(planted_run):
    images = planted_run.run_dir.stage("embed_images")
    first, again, other = (sample_images(images, max_images=50, seed=seed).row_ids for seed in (0, 0, 1))
    assert len(first) == 50
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_outlier_scores_compare_with_the_cluster():
    scores = outlier_scores(np.array([0.1, 0.4, 0.3]), np.array([0.1, 0.2, 0.0]))
    np.testing.assert_allclose(scores, [1, 2, 0])


@pytest.fixture
def two_encoders(planted_run):
    """The planted run, whose images a second encoder has embedded in parts of its own."""
    images = planted_run.run_dir.stage("embed_images")
    first = load_matrix(images, "images")
    generator = np.random.default_rng(1)
    centers = np.linalg.qr(generator.normal(size=(8, 8)))[0][:4]
    rows = centers[planted_run.labels] + 0.1 * generator.normal(size=(240, 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = images.read_table(IMAGES)["image_id"]
    parts = []
    for start in (0, 100):
        stop = 240 if start else 100
        columns = {"row_id": first.row_ids[start:stop], "image_id": ids[start:stop]}
        table = pa.table({**columns, "embedding": embedding_column(rows[start:stop].astype(np.float16))})
        parts.append(images.write_part("images-other", table.cast(IMAGES.schema(8)), fingerprint=FINGERPRINT))
    found = images.require_manifest()
    tables = {**found.tables, "images-other": parts}
    images.publish(fingerprint=FINGERPRINT, inputs={}, tables=tables, metrics=found.metrics, seconds=1.0)
    return planted_run, rows


def test_heads_of_several_encoders_assign_by_all_of_them(two_encoders):
    run, rows = two_encoders
    names = ("embed_images", "build_semantic_space", "mine_neighbors", "train_heads", "assign_clusters")
    images, space, neighbors, trained, output = (run.run_dir.stage(name) for name in names)
    tables = ("images", "images-other")
    job = TrainingJob(
        MethodConfig(name="best"), 4, 0, images, space, neighbors, trained, FINGERPRINT, image_tables=tables
    )
    find_best_start(job)
    train_heads(job)
    assert len(read_start(job).encoder_weights) == 1
    files = {HEADS_NAME: trained.describe_file(HEADS_NAME)}
    metrics = {IMAGE_TABLES: list(tables)}
    trained.publish(fingerprint=FINGERPRINT, inputs={}, tables={}, files=files, metrics=metrics, seconds=1.0)
    heads = load_heads(trained)
    assert heads.embedding_width == 16 + 8

    sample = sample_images(images, max_images=100, seed=0)
    joined = load_image_rows(images, image_tables_of(trained), sample)
    np.testing.assert_allclose(joined[:, 16:], rows[sample.row_ids] / np.sqrt(2), atol=1e-3)
    measured = assign_sample(sample, heads, None, joined)
    assert measured.centers.shape == (4, 16)
    centers = output.write_part("centers", center_table(measured), fingerprint=FINGERPRINT)
    mapper = AssignImages(images, space, output, fingerprint=FINGERPRINT, heads=trained, centers=centers)
    table = output.read_part(parts_in_order(mapper(pa.table({"part": [0]})).to_pylist())[0])
    assert clustering_accuracy(run.labels, table["cluster_id"].to_numpy()) == 1
    labels = table["cluster_id"].to_numpy()
    np.testing.assert_array_equal(
        labels, heads.assignment_probs(torch.from_numpy(load_images(images, tables).values)).argmax(dim=1).numpy()
    )


def test_other_rows_of_a_further_encoder_are_noticed(two_encoders):
    run, _ = two_encoders
    images = run.run_dir.stage("embed_images")
    found = images.require_manifest()
    tables = {**found.tables, "images-other": found.tables["images-other"][:1]}
    images.publish(fingerprint=FINGERPRINT, inputs={}, tables=tables, metrics=found.metrics, seconds=1.0)
    with pytest.raises(ArtifactError, match="the embeddings of images-other are not those of the rows of the first"):
        load_images(images, ("images", "images-other"))
