"""Names from planted evidence: hubs, synonyms, rivals, clusters nobody has a word for; and on real CLIP embeddings."""

from pathlib import Path

import numpy as np
import pytest

from dxmc_core.method.nouns import naming
from dxmc_core.method.nouns.naming import ClusterName, name_clusters
from dxmc_core.method.nouns.taxonomy import Taxonomy

WIDTH = 64


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def directions(num_rows: int, seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((num_rows, WIDTH)))


def around(centers: np.ndarray, labels: np.ndarray, noise: float = 0.3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return unit(centers[labels] + noise * unit(rng.standard_normal((len(labels), WIDTH))))


def named(
    images: np.ndarray, labels: np.ndarray, embeddings: np.ndarray, nouns: list[str], **kwargs
) -> list[ClusterName]:
    kwargs = {"num_clusters": int(labels.max()) + 1} | kwargs
    return name_clusters(images, labels, embeddings, nouns, kwargs.pop("synset_ids", [None] * len(nouns)), **kwargs)


@pytest.fixture
def zoo() -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Five clusters around five of forty nouns, all in one cone as with CLIP: images (200, 64), labels, nouns."""
    cone = 2 * directions(1, 9)
    embeddings = unit(directions(40, 0) + cone)
    labels = np.arange(200) % 5
    return around(embeddings, labels), labels, embeddings, [f"noun{position}" for position in range(40)]


def test_planted_nouns_are_found(zoo: tuple) -> None:
    for position, name in enumerate(named(*zoo)):
        assert name.name == name.names[0] == f"noun{position}"
        assert name.source == "noun"
        noun, synset_id, share, margin = name.evidence[0]
        assert (noun, synset_id) == (name.name, None)
        assert share > 0.9
        assert margin > 0.8
        assert len(name.names) == len(name.evidence) <= 5


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_stored_types_and_unnormalised_rows_give_the_same_names(zoo: tuple, dtype: type) -> None:
    images, labels, embeddings, nouns = zoo
    stored = named((3 * images).astype(dtype), labels.astype(np.int32), (2 * embeddings).astype(dtype), nouns)
    assert [name.name for name in stored] == [name.name for name in named(*zoo)]


def test_shares_and_margins_follow_their_definition(zoo: tuple) -> None:
    images, labels, embeddings, nouns = zoo
    mean_image = np.mean([images[labels == cluster].mean(axis=0) for cluster in range(5)], axis=0)
    shares = np.zeros((5, 40))
    for image, label in zip(images, labels, strict=True):
        scores = embeddings @ (image - naming._MEAN_SHARE * mean_image)
        shares[label] += (scores >= scores.max() - naming._NEAR * scores.std()) / 40
    for cluster, name in enumerate(named(*zoo)):
        for noun, _, share, margin in name.evidence:
            of_noun = shares[:, nouns.index(noun)]
            assert share == pytest.approx(of_noun[cluster], abs=1e-5)
            assert margin == pytest.approx(of_noun[cluster] - np.delete(of_noun, cluster).max(), abs=1e-5)


def test_a_hub_that_is_near_every_image_names_nothing() -> None:
    hub, concepts = directions(1, 9), directions(40, 0)
    labels = np.arange(200) % 5
    images = around(unit(hub + 0.4 * concepts), labels)
    embeddings = np.concatenate([unit(0.3 * hub + concepts), hub])
    nouns = [*(f"noun{position}" for position in range(40)), "hub"]
    # The hub is the nearest noun of nearly every image by plain cosine ...
    assert ((images @ embeddings.T).argmax(axis=1) == 40).mean() > 0.9
    # ... and still every cluster has its own noun.
    assert [name.name for name in named(images, labels, embeddings, nouns)] == nouns[:5]


def test_two_clusters_of_one_noun_are_not_called_the_same(zoo: tuple) -> None:
    images, labels, embeddings, nouns = zoo
    split = np.where(labels == 0, 5 * (np.arange(200) % 2), labels)
    result = named(images, split, embeddings, nouns)
    # Nothing tells the halves apart, so one of them has a number.
    assert sorted([result[0].name, result[5].name]) in (["cluster 0 (noun0)", "noun0"], ["cluster 5 (noun0)", "noun0"])
    assert [name.name for name in result[1:5]] == nouns[1:5]


def test_names_are_unique_whatever_comes_in() -> None:
    rng = np.random.default_rng(0)
    for seed in range(8):
        num_clusters = int(rng.integers(1, 60))
        labels = rng.integers(num_clusters, size=120)
        embeddings = directions(int(rng.integers(1, 30)), seed)
        nouns = [f"noun{position % 7}" for position in range(len(embeddings))]
        result = named(directions(120, seed + 100), labels, embeddings, nouns, num_clusters=num_clusters)
        assert len({name.name.casefold() for name in result}) == num_clusters


def test_clusters_that_no_noun_fits_are_unnamed(zoo: tuple) -> None:
    _, _, embeddings, nouns = zoo
    result = named(directions(1000, 77), np.arange(1000) % 5, embeddings, nouns)
    assert [name.name for name in result] == [f"cluster {cluster}" for cluster in range(5)]
    assert {name.source for name in result} == {"unnamed"}


BREEDS = {
    "entity": [],
    "animal": ["entity"],
    "tool": ["entity"],
    "dog": ["animal"],
    "saw": ["tool"],
    **{f"breed{number}": ["dog"] for number in range(6)},
    **{f"saw{number}": ["saw"] for number in range(6)},
}


def test_members_that_disagree_are_named_by_what_is_above_them() -> None:
    embeddings = unit(directions(12, 0) + 2 * directions(1, 9))
    synset_ids = [f"breed{number}" for number in range(6)] + [f"saw{number}" for number in range(6)]
    of_noun = np.concatenate([np.arange(120) % 6, 6 + np.arange(60) % 6, np.full(60, 6)])
    labels = np.repeat([0, 1, 2], [120, 60, 60])
    images = around(embeddings, of_noun)
    taxonomy = Taxonomy(BREEDS, {synset: synset for synset in BREEDS})
    dogs, saws, one_saw = named(images, labels, embeddings, synset_ids, synset_ids=synset_ids, taxonomy=taxonomy)
    assert (dogs.name, dogs.source) == ("dog", "hypernym")
    assert (saws.name, saws.source) == ("saw", "hypernym")
    assert (one_saw.name, one_saw.source) == ("saw0", "noun")
    assert all(synset_id == noun for noun, synset_id, _, _ in dogs.evidence)
    without_table = named(images, labels, embeddings, synset_ids)
    assert {name.source for name in without_table} <= {"noun", "unnamed"}


def test_confident_members_count_more() -> None:
    embeddings = unit(directions(20, 0) + 2 * directions(1, 9))
    labels = np.repeat([0, 1], 60)
    of_noun = np.concatenate([np.repeat([0, 1], [20, 40]), np.full(60, 2)])
    images = around(embeddings, of_noun)
    nouns = [f"noun{position}" for position in range(20)]
    assert named(images, labels, embeddings, nouns)[0].name == "noun1"
    confidences = np.where(of_noun == 1, 0.1, 1.0)
    assert named(images, labels, embeddings, nouns, confidences=confidences)[0].name == "noun0"
    nobody = named(images, labels, embeddings, nouns, confidences=np.zeros(120))
    assert nobody == named(images, labels, embeddings, nouns)


def test_empty_clusters_stay_unnamed_and_change_nothing(zoo: tuple) -> None:
    result = named(*zoo, num_clusters=8)
    assert result[:5] == named(*zoo)
    assert result[7] == ClusterName("cluster 7", [], [], "unnamed")


def test_one_cluster_one_noun_and_one_image(zoo: tuple) -> None:
    images, labels, embeddings, nouns = zoo
    alone = named(images[labels == 0], np.zeros(40, dtype=int), embeddings, nouns)
    assert alone[0].name == "noun0"
    single = named(images[:1], labels[:1], embeddings, nouns)
    assert (single[0].name, single[0].evidence[0][2]) == ("noun0", 1.0)
    assert named(images[:1], labels[:1], embeddings[:1], nouns[:1])[0].name == "noun0"
    one_noun = named(images, labels, embeddings[:1], nouns[:1])
    assert one_noun[0].name == "noun0"
    assert len({name.name for name in one_noun}) == 5


def test_only_one_cluster_with_members_is_named_by_its_members(zoo: tuple) -> None:
    images, labels, embeddings, nouns = zoo
    result = named(images[labels == 3], np.full(40, 2), embeddings, nouns, num_clusters=4)
    assert [name.name for name in result] == ["cluster 0", "cluster 1", "noun3", "cluster 3"]


def test_blocks_and_row_order_change_nothing(zoo: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels, embeddings, nouns = zoo
    expected = named(*zoo)
    order = np.random.default_rng(0).permutation(200)
    shuffled = named(images[order], labels[order], embeddings, nouns)
    monkeypatch.setattr(naming, "_SCORES_PER_BLOCK", 1)
    for result in (shuffled, named(*zoo)):
        assert [name.name for name in result] == [name.name for name in expected]
        for name, other in zip(result, expected, strict=True):
            assert name.evidence[0][2:] == pytest.approx(other.evidence[0][2:], abs=1e-5)


def test_large_clusters_are_named_by_a_sample_of_members(zoo: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naming, "_MAX_MEMBERS", 7)
    assert [name.name for name in named(*zoo)] == zoo[3][:5]
    labels = np.repeat([0, 1, 2], [3, 50, 8])
    sample = naming._sample_members(labels, 4)
    assert np.bincount(labels[sample]).tolist() == [3, 7, 7]
    assert {3, 52} <= set(sample.tolist())


def test_input_that_does_not_fit_is_explained(zoo: tuple) -> None:
    images, labels, embeddings, nouns = zoo
    with pytest.raises(ValueError, match="same encoder"):
        named(images, labels, embeddings[:, :5], nouns)
    with pytest.raises(ValueError, match=r"expected 40 nouns and synset ids, .* found 39 and 39"):
        named(images, labels, embeddings, nouns[:39])
    with pytest.raises(ValueError, match=r"labels in 0\.\.3, found 0\.\.4"):
        named(images, labels, embeddings, nouns, num_clusters=4)
    with pytest.raises(ValueError, match="integer labels"):
        named(images, labels.astype(float), embeddings, nouns, num_clusters=5)
    with pytest.raises(ValueError, match="at least one image and one noun, found 200 and 0"):
        named(images, labels, embeddings[:0], [])
    with pytest.raises(ValueError, match="confidences"):
        named(images, labels, embeddings, nouns, confidences=np.full(200, np.nan))


#: Classes of UCF101, by their place in its alphabet, for which the vocabulary surely has a word; words that would do.
SURE = {
    3: ("bed", "crib"),
    11: ("billiard", "billard", "pool table"),
    13: ("cake",),
    15: ("bowling",),
    32: ("golf",),
    41: ("horse", "noseband", "saddle"),
    48: ("kayak", "canoe", "jet ski"),
    62: ("guitar",),
    63: ("piano",),
    66: ("violin", "cello"),
    79: ("skateboard", "skate"),
    80: ("ski",),
    82: ("parachute",),
    89: ("tennis",),
    96: ("volleyball",),
    97: ("dog", "pet"),
}


@pytest.mark.data
def test_classes_of_actions_get_names_that_fit(evaluation_data: Path) -> None:
    data = np.load(evaluation_data / "clip_vitb32/ucf101.npz")
    vocabulary = np.load(evaluation_data / "clip_vitb32/nouns.npz")
    nouns = vocabulary["nouns"].tolist()
    result = named(data["embeddings"], data["labels"], vocabulary["embeddings"], nouns)
    assert len({name.name.casefold() for name in result}) == 101
    # A quarter has no word of its own among 1,615 nouns, most of them things, and is numbered.
    assert sum(name.source == "noun" for name in result) >= 70
    fitting = [any(word in result[label].name.lower() for word in words) for label, words in SURE.items()]
    assert sum(fitting) >= len(SURE) - 1
    # No noun leads more than a tenth of the names, however many classes it hangs about in.
    heads = [name.name.partition(" (")[0] for name in result if name.source == "noun"]
    assert max(heads.count(head) for head in heads) <= 10
