"""The hierarchy filter equals a naive search on random hierarchies, and picks the level that images speak for."""

import numpy as np
import pytest

from dxmc_core.method.nouns.noun_hierarchy import filter_by_hierarchy
from dxmc_core.method.unit_rows import unit_rows


def naive_filter(
    images: np.ndarray, nouns: np.ndarray, candidates: list[int], edges: list[tuple[int, int]], min_votes: float
) -> list[int]:
    images, nouns = unit_rows(images, name="images"), unit_rows(nouns, name="nouns")
    below: dict[int, set[int]] = {noun: set() for noun in range(len(nouns))}
    for _ in nouns:
        for noun, hypernym in edges:
            below[hypernym] |= {noun} | below[noun]
    top = [max(candidates, key=lambda noun: float(image @ nouns[noun])) for image in images]
    kept: set[int] = set()
    for noun in sorted(candidates, key=lambda noun: len(below[noun])):
        voters = images[[choice == noun or choice in below[noun] for choice in top]]
        if len(voters) < min_votes:
            continue
        own_fit = (voters @ nouns[noun]).mean() if len(voters) else 0.0
        if all((voters @ nouns[other]).mean() <= own_fit for other in kept & below[noun]):
            kept.add(noun)
    return sorted(kept) or sorted(candidates)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("min_votes", [1, 4])
def test_equals_a_naive_search(seed: int, min_votes: int) -> None:
    rng = np.random.default_rng(seed)
    images, nouns = rng.normal(size=(60, 5)), rng.normal(size=(12, 5))
    pairs = [(low, high) for low in range(12) for high in range(low + 1, 12) if rng.random() < 0.2]
    candidates = np.sort(rng.choice(12, size=9, replace=False))
    found = filter_by_hierarchy(images, nouns, candidates, np.array(pairs).reshape(-1, 2), min_votes=min_votes)
    assert found.tolist() == naive_filter(images, nouns, candidates.tolist(), pairs, min_votes)


def test_level_follows_the_images() -> None:
    poodle, terrier, dog = np.array([1.0, 0.1, 0.5]), np.array([0.1, 1.0, 0.5]), np.array([1.0, 1.0, 1.0])
    nouns, edges = np.stack([poodle, terrier, dog]), np.array([[0, 2], [1, 2]])
    everything = np.arange(3)
    one_breed = np.tile(poodle, (10, 1))
    assert filter_by_hierarchy(one_breed, nouns, everything, edges, min_votes=2).tolist() == [0]
    both = np.concatenate([one_breed, np.tile(terrier, (10, 1))])
    assert filter_by_hierarchy(both, nouns, everything, edges, min_votes=2).tolist() == [0, 1, 2]
    assert filter_by_hierarchy(both, nouns, everything, edges, min_votes=15).tolist() == [2]
    assert filter_by_hierarchy(both, nouns, everything, edges, min_votes=100).tolist() == [0, 1, 2]


def test_a_cycle_is_refused() -> None:
    with pytest.raises(ValueError, match="expected noun_hypernyms without a cycle"):
        filter_by_hierarchy(np.eye(2), np.eye(2), np.arange(2), np.array([[0, 1], [1, 0]]), min_votes=1)
