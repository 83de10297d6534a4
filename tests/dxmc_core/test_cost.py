"""The estimate against counts done by hand, and what it warns of."""

from dataclasses import replace
from itertools import pairwise

import pytest

from dxmc_core.cost import GIB, Machine, Workload, as_document, estimate, warnings_of
from dxmc_core.method.ward import merge_work

SMALL = Workload(num_images=30_000, width=512, num_clusters=10, num_nouns=1000, encoder=None)
MACHINE = Machine(cores=2, memory_bytes=64 * GIB, disk_bytes=100 * GIB, temporary_bytes=100 * GIB, cpu_flops=50e9)


def test_operations_are_those_of_the_products():
    costs = {cost.stage: cost for cost in estimate(SMALL, MACHINE)}
    assert costs["embed_images"].flops == 0
    # 100 centres from 25,600 images: 10 restarts of 10 iterations, 4 of them 15 more; then all images and all nouns
    # against the centres; 500 selected nouns against all images, and mixed. Seeds are drawn from the cosines of 4,096.
    kmeans = 2 * 512 * (100 * (25_600 * 160 + 30_000 + 1000) + 4096**2)
    assert costs["build_semantic_space"].flops == kmeans + 2 * 2 * 512 * 500 * 30_000
    assert costs["build_semantic_space"].seconds == pytest.approx(costs["build_semantic_space"].flops / 100e9)
    assert costs["mine_neighbors"].flops == 2 * 2 * 512 * 30_000**2
    assert costs["mine_neighbors"].temporary_bytes == 0


def test_approximate_search_grows_far_less_than_exact_search_and_with_files_of_its_own():
    costs = [
        {cost.stage: cost for cost in estimate(replace(SMALL, num_images=count), MACHINE)}
        for count in (1_000_000, 10_000_000)
    ]
    small, large = (cost["mine_neighbors"] for cost in costs)
    assert 10 < large.flops / small.flops < 50
    assert large.temporary_bytes == 2 * 10_000_000 * 512 * 2
    assert "inverted file of 2,000 cells" in small.note


def test_more_nodes_share_the_mapping_but_not_the_centers():
    load = replace(SMALL, num_images=1_000_000, encoder="open_clip")
    one = {cost.stage: cost.seconds for cost in estimate(load, MACHINE)}
    ten = {cost.stage: cost.seconds for cost in estimate(load, replace(MACHINE, nodes=10))}
    assert ten["embed_images"] == pytest.approx(one["embed_images"] / 10)
    assert one["build_semantic_space"] / 10 < ten["build_semantic_space"] < one["build_semantic_space"]


def test_what_does_not_fit_is_named():
    load = replace(SMALL, num_images=100_000_000)
    found = warnings_of(estimate(load, MACHINE), MACHINE)
    assert any("train_heads writes about" in warning for warning in found)
    assert any("mine_neighbors writes about 190.7 GiB of temporary files" in warning for warning in found)
    tight = replace(MACHINE, memory_bytes=2 * GIB)
    assert any(
        "build_semantic_space needs about" in warning and "of memory on a node, which has 2.0" in warning
        for warning in warnings_of(estimate(load, tight), tight)
    )
    assert any("the run directory takes about" in warning for warning in found)
    assert warnings_of(estimate(SMALL, MACHINE), MACHINE) == []
    in_a_bucket = replace(MACHINE, disk_bytes=None)
    assert not any("run directory" in warning for warning in warnings_of(estimate(load, in_a_bucket), in_a_bucket))


def test_dollars_are_those_of_the_gpus():
    machine = replace(MACHINE, gpus=2, nodes=3, gpu_dollars_per_hour=1.5)
    document = as_document(replace(SMALL, num_images=10_000_000, encoder="open_clip"), machine)
    assert document["gpu_hours"] == pytest.approx(document["seconds"] / 3600 * 6)
    assert document["dollars"] == pytest.approx(document["gpu_hours"] * 1.5)


def training(**changes):
    [cost] = [cost for cost in estimate(replace(SMALL, **changes), MACHINE) if cost.stage == "train_heads"]
    return cost


def test_best_grows_with_the_images_up_to_its_sample_and_no_further():
    costs = [training(num_images=count) for count in (10_000, 50_000, 100_000, 1_000_000, 10_000_000)]
    for smaller, larger in pairwise(costs[:3]):
        assert smaller.flops < larger.flops
        assert smaller.seconds < larger.seconds
        assert smaller.memory_bytes < larger.memory_bytes
    # The nouns of a larger collection are more, which is all that still grows.
    flat = [training(num_images=count, num_nouns=500) for count in (100_000, 1_000_000, 10_000_000)]
    assert len({(cost.flops, cost.seconds, cost.memory_bytes) for cost in flat}) == 1
    assert "all images" in costs[2].note
    assert "a sample of 100,000 images; no epochs" in costs[4].note


def test_best_grows_with_the_clusters():
    costs = [training(num_images=10_000_000, num_clusters=count) for count in (10, 100, 1000, 10_000)]
    for fewer, more in pairwise(costs):
        assert fewer.flops < more.flops
        assert fewer.memory_bytes <= more.memory_bytes
    # From 5,000 clusters on the sample has 20 images for each of them.
    assert "a sample of 100,000 images" in costs[2].note
    assert "a sample of 200,000 images" in costs[3].note


def test_the_joins_of_ward_are_counted_by_what_they_read():
    # 4,000 micro-clusters of 256 dimensions are joined to 1,000: 3,000 joins, a pass over all for each of them.
    work = merge_work(4000, 256, 1000)
    assert work.flops == 2 * 256 * 4000**2
    assert work.moved_bytes == 3000 * 4000 * 256 * 4
    a_look = work.moved_bytes / MACHINE.cpu_bytes_per_s
    assert training(num_images=1_000_000, num_clusters=1000).seconds > 4 * a_look


def test_text_and_epochs_add_to_best():
    images_only = training(reads=())
    with_text = training()
    trained = training(num_epochs=10)
    assert images_only.flops < with_text.flops
    assert images_only.memory_bytes < with_text.memory_bytes
    assert images_only.temporary_bytes == 30_000 * 512 * 2
    assert with_text.temporary_bytes == 2 * images_only.temporary_bytes
    # One head of width 512 for 10 clusters, an anchor and a neighbour.
    assert trained.flops - with_text.flops == 6 * 2 * (512 * 512 + 512 * 10) * 30_000 * 10
    assert "10 epochs" in trained.note


def test_every_other_method_has_a_cost_of_its_own():
    reads = ("text_counterparts", "image_neighbors", "text_neighbors")
    both = training(method="dxmc", reads=reads, num_epochs=20)
    # Two heads of 512 x (512 + 10) parameters, an anchor and a neighbour, 6 operations a parameter and step.
    assert both.flops == 6 * 2 * 2 * (512 * 512 + 512 * 10) * 30_000 * 20
    assert both.temporary_bytes == 30_000 * (2 * 512 * 2 + 2 * 50 * 4)
    assert training(method="temi", reads=("image_neighbors",), num_epochs=20).flops == both.flops / 2
    images = training(method="kmeans", reads=(), num_restarts=20, num_iterations=300)
    both = training(method="concat_kmeans", reads=("text_counterparts",), num_restarts=20, num_iterations=300)
    # 20 restarts of 10 iterations and 4 of 15 more over all images, then labels; two modalities are twice as wide.
    assert images.flops == 2 * 512 * (10 * 30_000 * (200 + 60 + 1) + 4096**2)
    assert both.flops == 2 * images.flops
    assert both.memory_bytes > images.memory_bytes
    assert "k-means of all rows, 20 restarts" in images.note
