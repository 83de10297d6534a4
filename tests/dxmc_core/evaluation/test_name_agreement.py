"""Names against classes: WordNet says how far a name is from the truth."""

import numpy as np
import pytest

from dxmc_core.evaluation.name_agreement import NounSenses, name_agreement


@pytest.fixture(scope="module")
def senses():
    return NounSenses()


@pytest.mark.parametrize(
    ("name", "label", "expected"),
    [
        ("dog", "dog", "equal"),
        ("Automobile", "car", "synonym"),
        ("airplane", "aeroplane", "synonym"),
        ("t-shirt", "T Shirt", "equal"),
        ("dress shirt", "dress_shirts", "equal"),
        ("match", "matches", "equal"),
        ("footwear", "shoes", "hypernym"),
        ("animal", "dog", "hypernym"),
        ("siamese cat", "cat", "hyponym"),
        ("wolf", "fox", "sibling"),
        ("truck", "dog", "other"),
        ("no such word", "dog", "other"),
        ("dog", "no such word", "unknown"),
        ("seven", "7", "unknown"),
        ("dog", "3.0", "unknown"),
        ("zero", "-1", "unknown"),
        ("seven", "seven", "equal"),
    ],
)
def test_relations(senses, name, label, expected):
    assert senses.relation(name, label) == expected


def test_a_cluster_counts_once_by_its_commonest_class():
    labels = np.array(["dog", "dog", "truck", "truck", "truck", "zzz", "cat", "ship"])
    clusters = np.array([0, 0, 0, 1, 1, 2, 3, 4])
    names = {0: "hound (puppy)", 1: "vehicle", 2: "zebra", 3: "cluster 4", 4: "lake"}
    sources = {0: "noun", 1: "hypernym", 2: "noun", 3: "unnamed", 4: "noun"}
    assert name_agreement(labels, clusters, names, sources) == {
        "equal": 0,
        "synonym": 0,
        "hypernym": 1,
        "hyponym": 1,
        "sibling": 0,
        "other": 1,
        "unnamed": 1,
        "unknown": 1,
    }
