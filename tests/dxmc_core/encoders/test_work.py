"""Work that is counted on models without weights, against counts by hand."""

import pytest
import torch
from torch import nn

from dxmc_core.encoders import OfflineConfig, OpenClipConfig, encoder_work
from dxmc_core.encoders.work import count_work


def test_products_and_traffic_of_a_layer_are_counted_for_a_row():
    with torch.device("meta"):
        layer = nn.Linear(10, 20, bias=False)
    work = count_work(layer, 10)
    assert work.flops == 2 * 10 * 20
    # A row of 10 numbers comes in and one of 20 goes out; 32 rows share the reading of the weights.
    assert work.moved_bytes == pytest.approx(4 * (10 + 20 + 10 * 20 / 32))


def test_the_offline_encoder_has_the_work_of_its_two_models():
    work = encoder_work(OfflineConfig(kind="offline"))
    # EfficientNet-Lite0 does 407 million multiply-adds on an image.
    assert work.image.flops == pytest.approx(0.81e9, rel=0.05)
    assert work.loading.flops == pytest.approx(1000 * work.noun.flops)


@pytest.mark.parametrize(
    ("model", "gflops", "millions"),
    [("ViT-B-32-quickgelu", 8.8, 151), ("RN50-quickgelu", 12.2, 102), ("ViT-B-16-SigLIP", 35, 203)],
)
def test_open_clip_models_have_the_work_and_size_that_open_clip_lists(model, gflops, millions):
    work = encoder_work(OpenClipConfig(model=model))
    assert work.image.flops == pytest.approx(gflops * 1e9, rel=0.1)
    assert work.num_bytes == pytest.approx(millions * 4e6, rel=0.02)
    assert work.noun.flops > 1e9


def test_prompts_are_cut_to_their_tokens_where_the_tower_allows_it():
    """SigLIP's text tower is not causal and sees all 64 tokens."""
    cut, whole = (encoder_work(OpenClipConfig(model=model)) for model in ("ViT-B-16", "ViT-B-16-SigLIP"))
    assert whole.noun.flops > 5 * cut.noun.flops
