"""What lies above a noun, and how much a concept says, on small graphs counted by hand."""

import math

import pytest

from dxmc_core.method.nouns.taxonomy import NO_TAXONOMY, Taxonomy

PETS = Taxonomy(
    {"puppy": ["dog"], "dog": ["canine", "pet"], "canine": ["animal"], "pet": ["animal"], "animal": []},
    {"dog": "dog"},
)


def test_pairs_reach_over_gaps_and_join_synonyms():
    # "canine" and "pet" have no noun; two nouns stand for "animal".
    pairs = PETS.pairs(["puppy", "animal", None, "dog", "animal", "unknown"])
    assert pairs.tolist() == [[0, 3], [3, 1], [3, 4]]
    assert PETS.pairs(["puppy", None]) is None
    assert NO_TAXONOMY.pairs(["puppy", "dog"]) is None


def test_a_concept_says_the_less_the_more_lies_below_it():
    found = PETS.information(["animal", "canine", "puppy"])
    assert found["animal"] == pytest.approx(0)
    assert found["canine"] == pytest.approx(1 - math.log(3) / math.log(5))
    assert found["puppy"] == 1


def test_all_that_lies_above_is_found_in_cycles_too():
    assert PETS.above("dog") == {"dog", "canine", "pet", "animal"}
    assert Taxonomy({"egg": ["hen"], "hen": ["egg"]}).above("egg") == {"egg", "hen"}


def test_joined_synsets_come_before_its_own():
    joined = PETS.joined_by({"noun 7": ["dog"]}, {"noun 7": "mutt", "dog": "hound"})
    assert "noun 7" in joined
    assert "noun 7" not in PETS
    assert joined.above("noun 7") >= {"dog", "animal"}
    assert joined.nouns == {"noun 7": "mutt", "dog": "hound"}
