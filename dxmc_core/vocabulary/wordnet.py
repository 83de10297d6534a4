"""WordNet 3.0's nouns and the tree above them, from the two tables that scripts/build_wordnet_table.py wrote.

wordnet_nouns.parquet, one row per noun: noun; synset_id, the commonest meaning (for an ImageNet class the meaning of
the class); tag_count, how often WordNet's texts use it; the flags is_frequent, is_imagenet_class, is_first_lemma.
wordnet_synsets.parquet, one row per synset: synset_id; noun, its first lemma; hypernyms; depth below the root;
is_instance (a proper name); lexicographer_file (animal, artifact, ...).
"""

from collections.abc import Mapping, Sequence
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dxmc_core.method.nouns.taxonomy import Taxonomy
from dxmc_core.method.nouns.vocabulary import Vocabulary
from dxmc_core.vocabulary.wordnet_files import NOUNS, SYNSETS, table_bytes

#: WordNet's rules for plurals (morphy): an ending, and what a singular may have in its place.
_PLURALS = (
    ("s", ""),
    ("ses", "s"),
    ("ves", "f"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
)
_FLAGS = {"all": [], "frequent": ["is_frequent", "is_imagenet_class"], "first_lemma": ["is_first_lemma"]}


def wordnet_nouns(subset: str) -> Vocabulary:
    """The nouns of a subset (`all`, `frequent`, `first_lemma`) in alphabetical order."""
    table = _read(NOUNS)
    flags = _FLAGS[subset]
    if flags:
        keep = table[flags[0]]
        for flag in flags[1:]:
            keep = pc.or_(keep, table[flag])
        table = table.filter(keep)
    return Vocabulary(nouns=table["noun"].to_pylist(), synset_ids=table["synset_id"].to_pylist())


@cache
def wordnet_taxonomy() -> Taxonomy:
    """Every noun synset below its hypernyms (instance hypernyms too, [] at the root), called by its first lemma."""
    table = _read(SYNSETS)
    synset_ids = table["synset_id"].to_pylist()
    hypernyms, nouns = (dict(zip(synset_ids, table[name].to_pylist(), strict=True)) for name in ("hypernyms", "noun"))
    return Taxonomy(hypernyms, nouns)


def commonest_synsets(nouns: Sequence[str]) -> list[str | None]:
    """The commonest meaning of each noun, None where WordNet does not have it.

    A gloss in brackets is left out, and of "barrel/bucket" the first word counts.
    """
    commonest = _commonest()
    return [_look_up(spellings(noun.partition(" (")[0].partition("/")[0]), commonest) for noun in nouns]


def kinds_of_compounds(nouns: Sequence[str], synset_ids: Sequence[str | None]) -> list[str | None]:
    """What a noun without a synset is a kind of: the commonest meaning of its last word ("human face": face)."""
    commonest = _commonest()
    last_words = [noun.partition(" (")[0].split()[-1] if " " in noun else None for noun in nouns]
    return [
        # The singular first: WordNet has "shoes", as in being in somebody's.
        _look_up(spellings(word)[::-1], commonest) if synset_id is None and word is not None else None
        for word, synset_id in zip(last_words, synset_ids, strict=True)
    ]


def _look_up(texts: Sequence[str], commonest: Mapping[str, str]) -> str | None:
    return next((commonest[text] for text in texts if text in commonest), None)


@cache
def _commonest() -> Mapping[str, str]:
    table = _read(NOUNS)
    return dict(zip(table["noun"].to_pylist(), table["synset_id"].to_pylist(), strict=True))


def spellings(noun: str) -> list[str]:
    """How WordNet may have a noun, likeliest first: lower case, with spaces, hyphens or neither, in the singular."""
    words = " ".join(noun.lower().replace("_", " ").split())
    found = [words, words.replace("-", " "), words.replace(" ", "-"), words.replace(" ", "")]
    singulars = [
        text.removesuffix(ending) + singular for text in found for ending, singular in _PLURALS if text.endswith(ending)
    ]
    return list(dict.fromkeys([*found, *singulars]))


def _read(name: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(table_bytes(name)))
