"""No cluster is called by what judges people; everyday people and everything else stay."""

import numpy as np
import pytest

from dxmc_core.vocabulary.wordnet import commonest_synsets, wordnet_taxonomy
from dxmc_core.withheld_nouns import concepts_that_name, is_shown

STAY = ["dog", "person", "woman", "bride", "guitarist", "fireman", "pansy", "spade", "face", "tennis racket", "zzz"]
GO = ["thief", "alcoholic", "Jew", "lesbian", "orphan", "simpleton", "slut", "Blonde", "mulatto", "Hitler", "coon"]


def shown(nouns: list[str], synset_ids: list[str | None]) -> list[str]:
    return [noun for noun, stays in zip(nouns, is_shown(nouns, synset_ids), strict=True) if stays]


def test_nouns_go_by_their_commonest_meaning() -> None:
    assert shown(STAY + GO, [None] * (len(STAY) + len(GO))) == STAY
    assert shown(STAY + GO, commonest_synsets(STAY + GO)) == STAY


def test_a_synset_comes_before_the_spelling_but_not_before_a_slur() -> None:
    assert shown(["nurse", "nurse", "star"], ["nurse.n.01", "nanny.n.01", "star.n.01"]) == ["nurse", "star"]
    assert shown(["genius", "genius"], ["ace.n.03", "flair.n.01"]) == ["genius"]
    assert shown(["chink (gap)"], ["chink.n.03"]) == []


def test_concepts_above_are_left_out_too() -> None:
    taxonomy = wordnet_taxonomy()
    left = concepts_that_name(taxonomy, judging=False).nouns
    assert {"dog.n.01", "person.n.01", "animal.n.01", "musician.n.01"} <= left.keys()
    assert not {"bad_person.n.01", "unfortunate.n.01", "inhabitant.n.01", "person_of_color.n.01"} & left.keys()
    assert all(left[synset] == taxonomy.nouns[synset] for synset in left)
    assert concepts_that_name(taxonomy, judging=True).nouns == taxonomy.nouns


@pytest.mark.parametrize("count", [0, 1])
def test_few_nouns_are_no_special_case(count: int) -> None:
    assert np.array_equal(is_shown(["dog"] * count, [None] * count), np.ones(count, dtype=bool))
