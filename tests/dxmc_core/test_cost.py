"""The estimate against counts done by hand, and what it warns of."""

from dataclasses import replace

import pytest

from dxmc_core.cost import GIB, Machine, Workload, as_document, estimate, warnings_of

SMALL = Workload(num_images=30_000, width=512, num_clusters=10, num_nouns=1000, encoder=None)
MACHINE = Machine(cores=2, memory_bytes=64 * GIB, disk_bytes=100 * GIB, temporary_bytes=100 * GIB, cpu_flops=50e9)


def test_operations_are_those_of_the_products():
    costs = {cost.stage: cost for cost in estimate(SMALL, MACHINE)}
    assert costs["embed_images"].flops == 0
    # 100 centres from 25,600 images: 10 restarts of 10 iterations, 4 of them 15 more; then all images and all nouns
    # against the centres; 500 selected nouns against all images, and mixed.
    kmeans = 2 * 512 * 100 * (25_600 * 160 + 30_000 + 1000)
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
