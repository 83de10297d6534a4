"""Concepts above nouns, on a small tree: what covers a cluster, and what of it says most."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from scipy.sparse import csr_array

from dxmc_core.method.nouns.hypernyms import HypernymEvidence, lowest_common_hypernyms
from dxmc_core.method.nouns.taxonomy import Taxonomy

#: entity over animal (dog, cat), vehicle (car, boat) and food, each with leaves.
HYPERNYMS = {
    "entity": [],
    "animal": ["entity"],
    "vehicle": ["entity"],
    "dog": ["animal"],
    "cat": ["animal"],
    "car": ["vehicle"],
    "boat": ["vehicle"],
    "food": ["entity"],
    **{breed: ["dog"] for breed in ("poodle", "beagle", "boxer")},
    **{breed: ["cat"] for breed in ("tabby", "manx")},
    **{kind: ["car"] for kind in ("cab", "coupe")},
    **{kind: ["boat"] for kind in ("yawl", "canoe")},
    **{kind: ["food"] for kind in ("bread", "rice", "soup", "pie")},
}
LEAVES = ["poodle", "beagle", "boxer", "tabby", "manx", "cab", "coupe", "yawl", "canoe"]
NAMES = {synset: f"a {synset}" for synset in HYPERNYMS} | {"animal": "an animal"}


def evidence(
    votes: list[list[float]],
    min_share: float = 0.5,
    synset_ids: Sequence[str | None] = LEAVES,
    hypernyms: Mapping[str, Sequence[str]] = HYPERNYMS,
    nouns: Mapping[str, str] = NAMES,
) -> list[HypernymEvidence | None]:
    taxonomy = Taxonomy(hypernyms, nouns)
    return lowest_common_hypernyms(csr_array(np.array(votes)), synset_ids, taxonomy, min_share=min_share)


DOGS = [0.4, 0.3, 0.2, 0.1, 0, 0, 0, 0, 0]
PETS = [0.3, 0.1, 0, 0.3, 0.15, 0.15, 0, 0, 0]
BOATS = [0, 0, 0, 0, 0, 0.1, 0, 0.45, 0.45]
MIX = [0.2, 0, 0, 0.2, 0, 0.2, 0.2, 0.2, 0]


def test_the_most_specific_concept_that_covers_the_votes_wins() -> None:
    dogs, pets, boats, mix = evidence([DOGS, PETS, BOATS, MIX])
    assert dogs is not None
    assert pets is not None
    assert boats is not None
    assert (dogs.noun, pets.noun, boats.noun) == ("a dog", "an animal", "a boat")
    assert (dogs.synset_id, boats.synset_id) == ("dog", "boat")
    assert dogs.share == pytest.approx(0.9)
    # Only "vehicle" covers half of the mix; it is specific enough to be told.
    assert mix is not None
    assert mix.noun == "a vehicle"


def test_the_root_is_never_a_name() -> None:
    scattered = [0.2, 0.1, 0, 0.2, 0, 0.1, 0.1, 0.2, 0.1]
    assert evidence([scattered, scattered], min_share=0.6) == [None, None]


def test_a_cluster_without_votes_has_none() -> None:
    alone, empty = evidence([DOGS, [0.0] * 9])
    assert empty is None
    assert alone is not None
    assert alone.noun == "a dog"


def test_nouns_without_synset_and_concepts_without_noun_are_left_out() -> None:
    ids = [None, "not in the table", *LEAVES[2:]]
    (found,) = evidence([DOGS], synset_ids=ids)
    assert found is None
    (above,) = evidence([DOGS], nouns={"animal": "beast"})
    assert above is not None
    assert above.noun == "beast"


def test_several_hypernyms_count_once_and_cycles_end() -> None:
    pets = HYPERNYMS | {"poodle": ["dog", "pet"], "beagle": ["dog", "pet"], "pet": ["animal"]}
    (found,) = evidence([[0.6, 0.4, 0, 0, 0, 0, 0, 0, 0]], hypernyms=pets, nouns={"animal": "beast"})
    assert found is not None
    assert found.share == pytest.approx(1)
    cyclic = HYPERNYMS | {"entity": ["animal"]}
    assert evidence([DOGS, BOATS], hypernyms=cyclic)[0] is not None
