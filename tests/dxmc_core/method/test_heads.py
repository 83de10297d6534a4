"""Heads assign row by row, describe themselves in JSON and come back from a state dict alone."""

import json

import pytest
import torch
from torch import Tensor, nn

from dxmc_core.method.heads import (
    AdaptedLinearHead,
    CentroidHead,
    DualHeads,
    Heads,
    LinearHead,
    MultiHead,
    build_heads,
)

WIDTH, NUM_CLUSTERS = 8, 3


def unit_rows(num_rows: int, *, seed: int = 0) -> Tensor:
    return nn.functional.normalize(torch.randn(num_rows, WIDTH, generator=torch.Generator().manual_seed(seed)))


def all_kinds() -> list[Heads]:
    return [
        DualHeads(WIDTH, NUM_CLUSTERS, projection_width=4),
        DualHeads(WIDTH, NUM_CLUSTERS, projection_width=0),
        DualHeads(WIDTH, NUM_CLUSTERS, projection_width=4, shared_trunk=True, seed=1),
        CentroidHead(unit_rows(NUM_CLUSTERS, seed=2)),
        CentroidHead(
            torch.cat([unit_rows(NUM_CLUSTERS, seed=s) for s in (3, 4)], dim=1), temperature=0.1, needs_text=True
        ),
        LinearHead(WIDTH, NUM_CLUSTERS),
        LinearHead(WIDTH, NUM_CLUSTERS, weight_norm=True, feature_scale=10.0, needs_text=True, seed=2),
        AdaptedLinearHead(WIDTH, NUM_CLUSTERS, adapter_width=4),
        multi_head(),
    ]


def multi_head() -> MultiHead:
    """Three heads of which the second assigns, on standardised embeddings."""
    heads = MultiHead(WIDTH, NUM_CLUSTERS, num_heads=3, hidden_width=6, bottleneck_width=5, seed=3)
    heads.mean.fill_(0.1)
    heads.std.fill_(0.3)
    heads.head_losses.copy_(torch.tensor([0.0, -1.0, 2.0]))
    return heads


@pytest.mark.parametrize("heads", all_kinds(), ids=lambda heads: json.dumps(heads.architecture()))
def test_heads_come_back_from_description_and_tensors(heads: Heads) -> None:
    images, texts = unit_rows(6), unit_rows(6, seed=1)
    heads.train()
    again = build_heads(json.loads(json.dumps(heads.architecture())))
    again.load_state_dict(heads.state_dict())
    probs = again.assignment_probs(images, texts)
    assert torch.equal(probs, heads.assignment_probs(images, texts))
    assert probs.shape == (6, NUM_CLUSTERS)
    torch.testing.assert_close(probs.sum(1), torch.ones(6))
    assert heads.training, "assigning restores the mode"
    assert not again.training


@pytest.mark.parametrize("heads", all_kinds(), ids=lambda heads: json.dumps(heads.architecture()))
def test_assignment_depends_on_the_row_alone_and_takes_float16(heads: Heads) -> None:
    images, texts = unit_rows(6).half(), unit_rows(6, seed=1).half()
    together = heads.assignment_probs(images, texts)
    alone = torch.cat([heads.assignment_probs(images[i : i + 1], texts[i : i + 1]) for i in range(6)])
    assert together.dtype == torch.float32
    torch.testing.assert_close(together, alone)


def test_dual_heads_layers() -> None:
    disjoint = DualHeads(WIDTH, NUM_CLUSTERS, projection_width=5)
    kinds = [type(layer).__name__ for layer in disjoint.image.cluster_head]
    assert kinds == ["Linear", "GlobalBatchNorm1d", "ReLU", "Linear"]
    assert disjoint.text.instance_head is not None
    assert [type(layer).__name__ for layer in disjoint.text.instance_head] == ["Linear", "ReLU", "Linear"]
    probs, projections = disjoint.image(unit_rows(4))
    assert probs.shape == (4, NUM_CLUSTERS)
    assert projections.shape == (4, 5)
    linears = [layer for layer in disjoint.modules() if isinstance(layer, nn.Linear)]
    assert all(0.01 < layer.weight.std() < 0.03 and not layer.bias.any() for layer in linears)


def test_cluster_heads_start_alike_with_and_without_instance_heads() -> None:
    with_instance = DualHeads(WIDTH, NUM_CLUSTERS, projection_width=5, seed=7).state_dict()
    without = DualHeads(WIDTH, NUM_CLUSTERS, projection_width=0, seed=7).state_dict()
    assert all(torch.equal(with_instance[key], value) for key, value in without.items())
    other_seed = DualHeads(WIDTH, NUM_CLUSTERS, projection_width=0, seed=8).state_dict()
    assert not torch.equal(other_seed["image.cluster_head.0.weight"], without["image.cluster_head.0.weight"])


def test_instance_level_reaches_cluster_heads_only_through_a_shared_trunk() -> None:
    for shared_trunk in (False, True):
        heads = DualHeads(WIDTH, NUM_CLUSTERS, projection_width=5, shared_trunk=shared_trunk)
        _, projections = heads.image(unit_rows(4))
        projections.square().sum().backward()
        path_to_clusters = [*heads.image.trunk.parameters(), *heads.image.cluster_head.parameters()]
        assert any(parameter.grad is not None for parameter in path_to_clusters) == shared_trunk


def test_centroid_head_picks_the_nearest_centroid() -> None:
    centers, images = unit_rows(NUM_CLUSTERS, seed=2), unit_rows(20)
    head = CentroidHead(7 * centers)
    assert torch.equal(head.assignment_probs(images).argmax(1), (images @ centers.T).argmax(1))
    texts = unit_rows(20, seed=5)
    both = CentroidHead(torch.cat([centers, -centers], dim=1), needs_text=True)
    expected = (images @ centers.T - texts @ centers.T).argmax(1)
    assert torch.equal(both.assignment_probs(images, texts).argmax(1), expected)


def test_linear_head_averages_its_modalities() -> None:
    images, texts = unit_rows(5), unit_rows(5, seed=1)
    head = LinearHead(WIDTH, NUM_CLUSTERS, weight_norm=True, feature_scale=7.0, needs_text=True)
    expected = torch.zeros(5, NUM_CLUSTERS)
    for classifier, rows in zip(head.classifiers, (images, texts), strict=True):
        assert isinstance(classifier, nn.Linear)
        expected += (7 * rows @ classifier.weight.T + classifier.bias).softmax(1) / 2
    torch.testing.assert_close(head.assignment_probs(images, texts), expected)
    assert len(list(head.parameters())) == 2 * 3, "length, direction and bias of each classifier"


def test_adapted_head_starts_at_the_identity() -> None:
    images = unit_rows(5)
    head = AdaptedLinearHead(WIDTH, NUM_CLUSTERS, adapter_width=4)
    torch.testing.assert_close(head.features(images), images)
    torch.testing.assert_close(head.assignment_probs(images), head.classifier(images).softmax(1).detach())


def test_multi_head_equals_separate_heads_and_assigns_by_the_best() -> None:
    images, heads = unit_rows(5), multi_head()
    expected = []
    for h in range(3):
        hidden = nn.functional.gelu((images - 0.1) / 0.3 @ heads.hidden_weight[h] + heads.hidden_bias[h])
        bottleneck = nn.functional.normalize(hidden @ heads.bottleneck_weight[h] + heads.bottleneck_bias[h])
        directions = nn.functional.normalize(heads.cluster_directions[h], dim=0)
        expected.append((bottleneck @ directions * heads.cluster_lengths[h] / 0.1).softmax(1))
    torch.testing.assert_close(heads.log_probs(images).exp(), torch.stack(expected))
    torch.testing.assert_close(heads.assignment_probs(images), expected[1].detach())


def test_unusable_input_is_refused() -> None:
    heads = DualHeads(WIDTH, NUM_CLUSTERS, projection_width=0)
    with pytest.raises(ValueError, match=r"image_embeddings of shape \(rows, 8\), found \(2, 9\)"):
        heads.assignment_probs(torch.zeros(2, WIDTH + 1))
    both = CentroidHead(torch.ones(2, 2 * WIDTH), needs_text=True)
    with pytest.raises(ValueError, match="expected text_counterparts, found none"):
        both.assignment_probs(torch.zeros(2, WIDTH))
    with pytest.raises(ValueError, match=r"expected heads of kind dual, .* or centroid, found 'conv'"):
        build_heads({"kind": "conv"})
    with pytest.raises(ValueError, match="unusable description of dual heads"):
        build_heads({"kind": "dual", "depth": 3})
    with pytest.raises(ValueError, match="expected centers"):
        CentroidHead(torch.ones(2, 7), needs_text=True)
