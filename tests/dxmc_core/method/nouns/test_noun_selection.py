"""Noun selection against a loop over the whole centres x nouns softmax, in any blocks, with ties and few nouns."""

import numpy as np
import pytest

from dxmc_core.method.nouns.noun_selection import NounSelection, kmeans_effort, num_image_centers, select_nouns


def random_unit(num_rows: int, width: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((num_rows, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def naive_selection(centers: np.ndarray, nouns: np.ndarray, nouns_per_center: int) -> dict[int, tuple[int, float]]:
    """{noun: (centre, probability)} from the dense softmax, one noun at a time."""
    of_center: dict[int, list[tuple[float, int]]] = {center: [] for center in range(len(centers))}
    for noun, embedding in enumerate(nouns.astype(np.float64)):
        exponentials = np.exp(centers.astype(np.float64) @ embedding)
        center = int(np.argmax(exponentials))
        of_center[center].append((-exponentials[center] / exponentials.sum(), noun))
    return {
        noun: (center, -negative)
        for center, members in of_center.items()
        for negative, noun in sorted(members)[:nouns_per_center]
    }


def as_dict(selection: NounSelection) -> dict[int, tuple[int, float]]:
    return {
        int(noun): (int(center), float(probability))
        for noun, center, probability in zip(
            selection.noun_ids, selection.center_ids, selection.probabilities, strict=True
        )
    }


@pytest.mark.parametrize("nouns_per_center", [1, 5, 1000])
@pytest.mark.parametrize("block_size", [1, 7, 64, 4096])
def test_selection_equals_the_dense_softmax(nouns_per_center: int, block_size: int) -> None:
    centers, nouns = random_unit(11, 8, 0), random_unit(200, 8, 1)
    found = as_dict(select_nouns(centers, nouns, nouns_per_center=nouns_per_center, block_size=block_size))
    expected = naive_selection(centers, nouns, nouns_per_center)
    assert {noun: center for noun, (center, _) in found.items()} == {
        noun: center for noun, (center, _) in expected.items()
    }
    for noun, (_, probability) in expected.items():
        assert found[noun][1] == pytest.approx(probability, rel=1e-5)


def test_types_order_and_float16_input() -> None:
    selection = select_nouns(random_unit(5, 8, 0).astype(np.float16), random_unit(60, 8, 1).astype(np.float64))
    assert (selection.noun_ids.dtype, selection.probabilities.dtype) == (np.int64, np.float32)
    assert (np.diff(selection.noun_ids) > 0).all()
    assert len(selection.noun_ids) == len(selection.center_ids) == len(selection.probabilities)
    assert np.bincount(selection.center_ids).max() <= 5


def test_noun_order_does_not_matter() -> None:
    centers, nouns = random_unit(9, 16, 0), random_unit(300, 16, 1)
    order = np.random.default_rng(2).permutation(300)
    straight, shuffled = select_nouns(centers, nouns), select_nouns(centers, nouns[order])
    assert sorted(order[shuffled.noun_ids]) == straight.noun_ids.tolist()


def test_equal_nouns_tie_and_the_earlier_ones_win_in_any_block() -> None:
    # The authors' list holds a noun once for each of its synsets: copies far apart must score exactly alike.
    centers = random_unit(3, 512, 0)
    nouns = np.tile(random_unit(40, 512, 1), (30, 1))
    chosen = select_nouns(centers, nouns, nouns_per_center=5, block_size=256)
    for center in range(3):
        ids = chosen.noun_ids[chosen.center_ids == center]
        assert (ids % 40 == ids[0] % 40).all()
        assert (ids < 5 * 40).all()


def test_equal_centers_share_their_nouns() -> None:
    # Which of them a noun goes to is a matter of rounding: columns of a product are not all added up in one order.
    center = random_unit(1, 8, 0)
    selection = select_nouns(np.repeat(center, 4, axis=0), random_unit(10, 8, 1), nouns_per_center=10)
    assert selection.noun_ids.tolist() == list(range(10))
    np.testing.assert_allclose(selection.probabilities, 0.25, rtol=1e-6)


def test_one_noun_is_enough() -> None:
    selection = select_nouns(random_unit(6, 8, 0), random_unit(1, 8, 1))
    assert selection.noun_ids.tolist() == [0]


@pytest.mark.parametrize(
    ("num_images", "num_clusters", "max_centers", "expected"),
    [
        (60_000, 10, 20_000, 200),
        (13_000, 10, 20_000, 43),
        (5681, 101, 20_000, 303),  # 56 images per cluster
        (3000, 10, 20_000, 10),  # exactly 300
        (2999, 10, 20_000, 30),
        (100_000_000, 1000, 20_000, 20_000),
        (30, 20, 20_000, 30),
        (1, 1, 20_000, 1),
    ],
)
def test_number_of_centers(num_images: int, num_clusters: int, max_centers: int, expected: int) -> None:
    assert num_image_centers(num_images, num_clusters, max_centers=max_centers) == expected


def test_unusable_arguments_are_explained() -> None:
    centers, nouns = random_unit(3, 8, 0), random_unit(10, 8, 1)
    with pytest.raises(ValueError, match=r"one width, found shapes \(3, 8\) and \(10, 6\)"):
        select_nouns(centers, nouns[:, :6])
    with pytest.raises(ValueError, match="found 3, 0, 5"):
        select_nouns(centers, nouns[:0])
    with pytest.raises(ValueError, match="one noun a centre"):
        select_nouns(centers, nouns, nouns_per_center=0)
    nouns[7, 2] = np.nan
    with pytest.raises(ValueError, match=r"noun_embeddings .* row 7"):
        select_nouns(centers, nouns, block_size=4)
    with pytest.raises(ValueError, match="at least 1, found 0"):
        num_image_centers(0, 5)


def test_kmeans_makes_the_effort_of_the_reference_until_there_are_many_images():
    assert kmeans_effort(20_000, num_images=60_000) == (10, 256, 300)
    assert kmeans_effort(333, num_images=100_000) == kmeans_effort(1, num_images=10**9) == (1, 128, 30)
    assert kmeans_effort(625, num_images=187_500) == (1, 102, 24)
    assert kmeans_effort(3333, num_images=10**6) == kmeans_effort(20_000, num_images=10**7) == (1, 64, 12)
