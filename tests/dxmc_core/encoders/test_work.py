"""Work that is counted on models without weights, against counts by hand."""

import pytest
import torch
from torch import nn

from dxmc_core.encoders import OfflineConfig, OpenClipConfig
from dxmc_core.encoders.work import count_work


def test_products_are_counted_for_a_row_and_what_is_written():
    with torch.device("meta"):
        layers = nn.Sequential(nn.Linear(10, 20, bias=False), nn.GELU(), nn.Flatten(), nn.ReLU(inplace=True))
    work = count_work(layers.requires_grad_(False), 10)
    assert work.flops == 2 * 10 * 20
    # Three times a row of 20 numbers: a view makes none.
    assert work.moved_bytes == 3 * 4 * 20


def test_the_offline_encoder_has_the_work_of_its_two_models():
    work = OfflineConfig(kind="offline").work()
    # EfficientNet-Lite0 does 407 million multiply-adds on an image.
    assert work.image.flops == pytest.approx(0.81e9, rel=0.05)
    assert work.loading.flops == pytest.approx(1000 * work.noun.flops)


@pytest.mark.parametrize(
    ("model", "gflops", "millions"),
    [
        ("ViT-B-32-quickgelu", 8.8, 151),
        ("RN50-quickgelu", 12.2, 102),
        ("ViT-B-16-SigLIP", 35, 203),
    ],
)
def test_open_clip_models_have_the_work_and_size_that_open_clip_lists(model, gflops, millions):
    work = OpenClipConfig(model=model).work()
    assert work.image.flops == pytest.approx(gflops * 1e9, rel=0.1)
    assert work.num_bytes == pytest.approx(millions * 4e6, rel=0.02)
    assert work.noun.flops > 1e9


def test_models_that_pool_by_attention_are_counted_too():
    plain, pooled = (OpenClipConfig(model=model).work() for model in ("ViT-B-32", "coca_ViT-B-32"))
    assert pooled.image.flops > plain.image.flops


def test_prompts_are_cut_to_their_tokens_where_the_tower_allows_it():
    """SigLIP's text tower is not causal and sees all 64 tokens."""
    cut, whole = (OpenClipConfig(model=model).work() for model in ("ViT-B-16", "ViT-B-16-SigLIP"))
    assert whole.noun.flops > 5 * cut.noun.flops
