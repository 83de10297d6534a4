"""Every way in which two clusters may want one name, and the order of preference between nouns and hypernyms."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dxmc_core.method.hypernyms import HypernymEvidence
from dxmc_core.method.name_choice import ChosenName, NounEvidence, choose_names, spelling_key


def noun(name: str, share: float, score: float | None = None) -> NounEvidence:
    return NounEvidence(name, None, share, 0.0, share if score is None else score)


def concept(name: str, share: float = 0.9, lift: float = 0.5) -> HypernymEvidence:
    return HypernymEvidence(name, f"{name}.n.01", share, lift)


def names(nouns: list[list[NounEvidence]], hypernyms: list[HypernymEvidence | None] | None = None) -> list[str]:
    chosen = choose_names(nouns, hypernyms if hypernyms is not None else [None] * len(nouns))
    return [f"{name.name}|{name.source}" for name in chosen]


def test_an_agreed_noun_comes_before_a_hypernym() -> None:
    assert names([[noun("poodle", 0.5)]], [concept("dog")]) == ["poodle|noun"]


def test_a_specific_hypernym_comes_before_a_noun_that_is_not_agreed() -> None:
    assert names([[noun("poodle", 0.49)]], [concept("dog")]) == ["dog|hypernym"]


def test_a_noun_comes_before_a_hypernym_that_other_clusters_share() -> None:
    assert names([[noun("poodle", 0.3)]], [concept("dog", lift=0.2)]) == ["poodle|noun"]


def test_a_shared_hypernym_comes_before_nothing() -> None:
    assert names([[noun("poodle", 0.24)]], [concept("dog", lift=0.2)]) == ["dog|hypernym"]
    assert names([[noun("poodle", 0.24)], []]) == ["cluster 0|unnamed", "cluster 1|unnamed"]


def test_the_better_score_has_the_noun_and_the_other_a_second_one_behind_it() -> None:
    weak, strong = [noun("drum", 0.8), noun("bell", 0.3)], [noun("drum", 0.9), noun("horn", 0.6)]
    assert names([weak, strong]) == ["drum (bell)|noun", "drum|noun"]


def test_a_substitute_that_is_nearly_as_good_stands_alone() -> None:
    assert names([[noun("drum", 0.8), noun("bell", 0.6)], [noun("drum", 0.9)]]) == ["bell|noun", "drum|noun"]


def test_a_substitute_does_not_take_a_noun_from_a_cluster_that_it_fits_better() -> None:
    nouns = [[noun("drum", 0.8), noun("bell", 0.6)], [noun("drum", 0.9)], [noun("bell", 0.7)]]
    assert names(nouns) == ["drum (bell)|noun", "drum|noun", "bell|noun"]


def test_without_a_second_noun_numbers_follow() -> None:
    nouns = [[noun("drum", share)] for share in (0.9, 0.8, 0.7)]
    assert names(nouns) == ["drum|noun", "drum 2|noun", "drum 3|noun"]


def test_hypernyms_are_told_apart_like_nouns_and_from_them() -> None:
    nouns = [[noun("dog", 0.9)], [noun("poodle", 0.4), noun("dog", 0.3)], [noun("beagle", 0.1)], []]
    assert names(nouns, [None, concept("dog", 0.9), concept("dog", 0.8), concept("dog", 0.7)]) == [
        "dog|noun",
        "dog (poodle)|hypernym",
        "dog 2|hypernym",
        "dog 3|hypernym",
    ]


def test_case_and_glosses_do_not_make_two_names() -> None:
    nouns = [[noun("Drum", 0.8), noun("fig (fruit)", 0.3)], [noun("drum (musical instrument)", 0.9)]]
    assert names(nouns) == ["Drum (fig)|noun", "drum (musical instrument)|noun"]
    assert spelling_key("Drum (musical instrument)") == spelling_key("drum")
    assert spelling_key("(odd)") == "(odd)"


def test_a_gloss_cannot_repeat_a_told_apart_name() -> None:
    nouns = [[noun("fig (fruit)", 0.9)], [noun("fig", 0.8), noun("fruit", 0.3), noun("leaf", 0.26)]]
    assert names(nouns) == ["fig (fruit)|noun", "fig (leaf)|noun"]


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10_000), num_clusters=st.integers(1, 30))
def test_names_are_unique_and_do_not_depend_on_chance(seed: int, num_clusters: int) -> None:
    rng = np.random.default_rng(seed)
    words = ["a", "A", "b", "b (x)", "c (b)", "x", "cluster 1", "cluster", "a 2", "a (b)"]
    nouns = []
    for _ in range(num_clusters):
        own = {spelling_key(words[i]): noun(words[i], rng.random()) for i in rng.permutation(10)[: rng.integers(6)]}
        nouns.append(sorted(own.values(), key=lambda each: -each.score))
    hypernyms = [
        concept(words[rng.integers(10)], rng.random(), rng.random()) if rng.random() < 0.3 else None for _ in nouns
    ]
    chosen = choose_names(nouns, hypernyms)
    assert len({name.name.casefold() for name in chosen}) == num_clusters
    assert chosen == choose_names(nouns, hypernyms)


def test_no_clusters_need_no_names() -> None:
    assert choose_names([], []) == []
    assert choose_names([[]], [None]) == [ChosenName("cluster 0", "unnamed")]
