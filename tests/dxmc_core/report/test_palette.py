"""Cluster colours: apart for every kind of colour vision, and dealt so that neighbours differ."""

import numpy as np
import pytest

from dxmc_core.report.palette import COLORS, NUM_COLORS, deal_colors

# Linear RGB as people without one kind of cone see it (Machado, Oliveira and Fernandes 2009, severity 1.0).
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear_rgb(color: str) -> np.ndarray:
    encoded = np.array([int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def oklab(linear: np.ndarray) -> np.ndarray:
    to_cones = [
        [0.41222147, 0.53633254, 0.05144599],
        [0.21190350, 0.68069955, 0.10739696],
        [0.08830246, 0.28171884, 0.62997870],
    ]
    to_lab = [
        [0.21045426, 0.79361779, -0.00407205],
        [1.97799850, -2.42859221, 0.45059371],
        [0.02590404, 0.78277177, -0.80867577],
    ]
    return np.cbrt(linear.clip(0, 1) @ np.transpose(to_cones)) @ np.transpose(to_lab)


@pytest.mark.parametrize("vision", VISION)
def test_any_two_colors_can_be_told_apart(vision):
    lab = oklab(np.array([linear_rgb(color) for color in COLORS]) @ np.transpose(VISION[vision]))
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + np.eye(len(COLORS))
    # 0.02 is about what an eye can just tell apart side by side; dots on a map lie further from each other.
    assert distances.min() > 0.07


@pytest.mark.parametrize("background", ["#ffffff", "#1d1f21"])
def test_colors_stand_out_from_the_map(background):
    def luminance(color: str) -> float:
        return float(linear_rgb(color) @ [0.2126, 0.7152, 0.0722])

    for color in COLORS:
        dark, light = sorted([luminance(color), luminance(background)])
        assert (light + 0.05) / (dark + 0.05) >= 3.0, color


def test_few_clusters_get_colors_of_their_own():
    positions = np.zeros((NUM_COLORS, 2))
    assert sorted(deal_colors(positions, NUM_COLORS)) == list(range(NUM_COLORS))
    assert deal_colors(None, 3) == [0, 1, 2]


def test_many_clusters_differ_from_their_neighbors_and_use_all_colors():
    positions = np.random.default_rng(0).random((200, 2))
    slots = np.array(deal_colors(positions, 200))
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1) + 9 * np.eye(200)
    assert (slots != slots[distances.argmin(axis=1)]).mean() > 0.97
    assert np.bincount(slots, minlength=NUM_COLORS).min() >= 10


def test_clusters_without_a_place_on_the_map_get_colors_too():
    positions = np.full((40, 2), np.nan)
    positions[::2] = np.random.default_rng(0).random((20, 2))
    slots = deal_colors(positions, 40)
    assert len(slots) == 40
    assert set(slots) == set(range(NUM_COLORS))
    assert len(deal_colors(None, 40)) == 40
