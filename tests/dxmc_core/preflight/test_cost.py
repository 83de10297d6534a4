"""The estimate against counts done by hand, and what it warns of."""

from dataclasses import replace
from itertools import pairwise

import pytest

from dxmc_core.method.clusters.ward import merge_work
from dxmc_core.method.hyperparameters import (
    BestHyperparameters,
    ConcatKMeansSettings,
    DXMCHyperparameters,
    KMeansSettings,
    TEMIHyperparameters,
)
from dxmc_core.method.work import Work
from dxmc_core.preflight.cost import as_document, estimate, warnings_of
from dxmc_core.workload import GIB, EncoderWork, Machine, Rates, Workload

SMALL = Workload(num_images=30_000, width=512, num_clusters=10, num_nouns=1000, encoder=None)
RATES = Rates(core_flops=50e9, core_bytes_per_s=4e9, share_reached=1.0)
MACHINE = Machine(cores=2, memory_bytes=64 * GIB, disk_bytes=100 * GIB, temporary_bytes=100 * GIB, rates=RATES)
ENCODER = EncoderWork(image=Work(8.8e9, 20e6), noun=Work(7e9), loading=Work(moved_bytes=1e10), num_bytes=6e8)
IMAGES = replace(SMALL, encoder="ViT-B-32", encoder_work=ENCODER)


def costs_of(load, machine=MACHINE):
    return {cost.stage: cost for cost in estimate(load, machine)}


def seconds_of(cost):
    return {part.name: part.seconds for part in cost.parts}


def test_operations_are_those_of_the_products():
    costs = costs_of(SMALL)
    assert costs["embed_images"].flops == 0
    # 100 centres from 25,600 images: 10 restarts of 10 iterations, 4 of them 15 more; then all images and all nouns
    # against the centres; 500 selected nouns against all images, and mixed. Seeds are drawn from the cosines of 4,096.
    kmeans = 2 * 512 * (100 * (25_600 * 160 + 30_000 + 1000) + 4096**2)
    assert costs["build_semantic_space"].flops == kmeans + 2 * 2 * 512 * 500 * 30_000
    assert seconds_of(costs["build_semantic_space"])["image centers and their nouns"] == pytest.approx(kmeans / 100e9)
    # And 768 queries against all rows, on which the recall of the index is measured.
    assert costs["mine_neighbors"].flops == 2 * 512 * 30_000**2 + 2 * 512 * 30_000 * 768
    assert costs["mine_neighbors"].temporary_bytes == 0


def test_approximate_search_grows_far_less_than_exact_search_and_with_files_of_its_own():
    costs = [costs_of(replace(SMALL, num_images=count)) for count in (1_000_000, 10_000_000)]
    small, large = (cost["mine_neighbors"] for cost in costs)
    assert 10 < large.flops / small.flops < 50
    assert large.temporary_bytes == 10_000_000 * 512 * 2
    assert "inverted file of 2,000 cells" in small.note


def test_more_nodes_share_the_mapping_but_not_the_centers():
    load = replace(IMAGES, num_images=1_000_000)
    one, ten = (costs_of(load, replace(MACHINE, nodes=nodes)) for nodes in (1, 10))
    for stage, shared, alone in (
        ("embed_images", "the encoder", "starting processes"),
        ("build_semantic_space", "text counterparts", "image centers and their nouns"),
    ):
        assert seconds_of(ten[stage])[shared] == pytest.approx(seconds_of(one[stage])[shared] / 10)
        assert seconds_of(ten[stage])[alone] == seconds_of(one[stage])[alone]


def test_an_image_costs_what_its_encoder_does():
    """18 times the work is 18 times the seconds, beside what decoding takes."""
    large = replace(ENCODER, image=ENCODER.image * 18)
    small, large = (
        seconds_of(costs_of(replace(IMAGES, encoder_work=work))["embed_images"]) for work in (ENCODER, large)
    )
    assert large["the encoder"] == pytest.approx(18 * small["the encoder"])
    assert large["decoding"] == small["decoding"] == pytest.approx(30_000 * RATES.decode_s / 2)


def test_files_are_waited_for_only_when_they_come_slower_than_they_are_worked_on():
    slow = replace(MACHINE, rates=replace(RATES, fetch_s=1.0))
    assert seconds_of(costs_of(IMAGES)["embed_images"])["fetching images"] == 0
    cost = costs_of(IMAGES, slow)["embed_images"]
    found = seconds_of(cost)
    assert found["fetching images"] + found["the encoder"] + found["decoding"] == pytest.approx(30_000 / 2)
    assert cost.mostly.name == "fetching images"


def test_gpus_embed_as_fast_as_the_slowest_of_what_goes_on_beside_each_other():
    machine = replace(MACHINE, gpus=1, cores=9)
    found = seconds_of(costs_of(IMAGES, machine)["embed_images"])
    assert found["decoding"] == pytest.approx(30_000 * RATES.decode_s / 8)
    assert "the encoder" not in found
    slow = replace(machine, gpu_flops=1e12)
    assert seconds_of(costs_of(IMAGES, slow)["embed_images"])["the encoder"] > 30_000 * 8.8e9 / 1e12


def test_nouns_are_encoded_once():
    """All of WordNet in seven prompts is 5.8e15 operations of a text tower of this size; once cached it is nothing."""
    load = replace(IMAGES, num_nouns=117_798, nouns_to_encode=117_798)
    cost = costs_of(load)["build_semantic_space"]
    assert seconds_of(cost)["the nouns' prompts"] == pytest.approx(117_798 * 7e9 / 100e9)
    assert cost.mostly.name == "the nouns' prompts"
    assert "the nouns' prompts" not in seconds_of(costs_of(replace(load, nouns_to_encode=0))["build_semantic_space"])


def test_k_is_chosen_on_a_sample_where_it_is_auto():
    assert "suggest_k" not in costs_of(SMALL)
    small, large = (
        costs_of(replace(SMALL, chooses_k=True, num_images=count))["suggest_k"] for count in (5_000, 1_000_000)
    )
    assert small.flops < large.flops
    sample = costs_of(replace(SMALL, chooses_k=True, num_images=10_000))["suggest_k"]
    # The sample, two regions as large, and a pass over all images.
    assert 3 * sample.flops < large.flops < 4 * sample.flops
    coarse = costs_of(replace(SMALL, chooses_k=True, k_max_clusters=20))["suggest_k"]
    assert coarse.seconds < large.seconds


def test_assigning_goes_by_all_images_and_names_by_a_sample():
    small, large = (
        costs_of(replace(SMALL, num_images=count, num_clusters=1000))["assign_clusters"]
        for count in (1_000_000, 10_000_000)
    )
    assert seconds_of(large)["assigning"] == pytest.approx(10 * seconds_of(small)["assigning"])
    assert seconds_of(large)["measuring clusters"] == seconds_of(small)["measuring clusters"]


def test_the_report_has_pictures_where_there_are_images():
    assert seconds_of(costs_of(SMALL)["write_report"])["thumbnails"] == 0
    ten, hundred = (costs_of(replace(IMAGES, num_clusters=count))["write_report"] for count in (10, 100))
    assert 0 < seconds_of(ten)["thumbnails"] < seconds_of(hundred)["thumbnails"]
    assert "3,320 pictures, 10,000 on the pages of members" in ten.note
    few = costs_of(replace(IMAGES, num_clusters=10, max_member_images=0))["write_report"]
    assert seconds_of(few)["thumbnails"] < seconds_of(ten)["thumbnails"]


def test_the_index_for_searches_is_counted_by_its_kind():
    found = {
        kind: costs_of(replace(SMALL, search_index=kind))["mine_neighbors"] for kind in ("flat", "ivf_sq8", "none")
    }
    assert found["flat"].disk_bytes - found["none"].disk_bytes == 30_000 * (2 * 512 + 8)
    assert found["ivf_sq8"].disk_bytes - found["none"].disk_bytes == 30_000 * (512 + 8)
    assert "the index for searches" not in seconds_of(found["none"])


def test_neighbors_of_the_text_are_searched_for_methods_that_train_on_them():
    both, images = (
        costs_of(replace(SMALL, settings=settings, search_index="none"))["mine_neighbors"]
        for settings in (DXMCHyperparameters(), BestHyperparameters())
    )
    assert both.disk_bytes == 2 * images.disk_bytes
    assert seconds_of(both)["exact search"] == pytest.approx(2 * seconds_of(images)["exact search"])


def test_everything_waits_for_processes_to_start():
    slow = replace(MACHINE, rates=replace(RATES, process_s=60.0))
    costs = costs_of(SMALL, slow)
    assert costs["start of Ray"].seconds > 60
    assert costs["build_semantic_space"].mostly.name == "starting processes"


def test_what_does_not_fit_is_named():
    load = replace(SMALL, num_images=110_000_000)
    found = warnings_of(estimate(load, MACHINE), MACHINE)
    assert any("train_heads writes about" in warning for warning in found)
    assert any("mine_neighbors writes about 104.9 GiB of temporary files" in warning for warning in found)
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
    document = as_document(replace(IMAGES, num_images=10_000_000), machine)
    assert document["gpu_hours"] == pytest.approx(document["seconds"] / 3600 * 6)
    assert document["dollars"] == pytest.approx(document["gpu_hours"] * 1.5)


def training(**changes):
    return costs_of(replace(SMALL, **changes))["train_heads"]


def test_best_grows_with_the_images_up_to_its_sample_and_no_further():
    costs = [training(num_images=count) for count in (10_000, 50_000, 100_000, 1_000_000, 10_000_000)]
    for smaller, larger in pairwise(costs[:3]):
        assert smaller.flops < larger.flops
        assert smaller.seconds < larger.seconds
        assert smaller.memory_bytes < larger.memory_bytes
    # The nouns of a larger collection are more, which is all that still grows.
    flat = [training(num_images=count, num_nouns=500) for count in (100_000, 1_000_000, 10_000_000)]
    assert len({(cost.flops, seconds_of(cost)["best"], cost.memory_bytes) for cost in flat}) == 1
    assert "all images" in costs[2].note
    assert "a sample of 100,000 images, up to 4 times; no epochs" in costs[4].note


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
    a_look = work.moved_bytes / (2 * RATES.core_bytes_per_s)
    assert training(num_images=1_000_000, num_clusters=1000).seconds > 4 * a_look


def test_text_and_epochs_add_to_best():
    images_only = training(settings=BestHyperparameters(use_text=False))
    with_text = training()
    trained = training(settings=BestHyperparameters(num_epochs=10))
    assert images_only.flops < with_text.flops
    assert images_only.memory_bytes < with_text.memory_bytes
    assert images_only.temporary_bytes == 30_000 * 512 * 2
    assert with_text.temporary_bytes == 2 * images_only.temporary_bytes
    # One head of width 512 for 10 clusters, an anchor and a neighbour; the neighbours that are read are not searched.
    epochs = 6 * 2 * (512 * 512 + 512 * 10) * 30_000 * 10
    assert trained.flops == with_text.flops + epochs - 2 * 512 * 30_000**2
    assert "10 epochs" in trained.note


def test_every_other_method_has_a_cost_of_its_own():
    both = training(settings=DXMCHyperparameters(num_epochs=20))
    # Two heads of 512 x (512 + 10) parameters, an anchor and a neighbour, 6 operations a parameter and step.
    assert both.flops == 6 * 2 * 2 * (512 * 512 + 512 * 10) * 30_000 * 20
    assert both.temporary_bytes == 30_000 * (2 * 512 * 2 + 2 * 50 * 4)
    assert training(settings=TEMIHyperparameters(num_epochs=20)).flops == both.flops / 2
    images = training(settings=KMeansSettings())
    both = training(settings=ConcatKMeansSettings())
    # 20 restarts of 10 iterations and 4 of 15 more over all images, then labels; two modalities are twice as wide.
    assert images.flops == 2 * 512 * (10 * 30_000 * (200 + 60 + 1) + 4096**2)
    assert both.flops == 2 * images.flops
    assert both.memory_bytes > images.memory_bytes
    assert "k-means of all rows, 20 restarts" in images.note
