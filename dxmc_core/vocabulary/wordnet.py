"""WordNet 3.0's nouns and the tree above them, from the two tables that scripts/build_wordnet_table.py wrote.

wordnet_nouns.parquet, one row a noun: noun; synset_id, the commonest meaning (for an ImageNet class the meaning of the
class); tag_count, how often WordNet's texts use it; the flags is_frequent, is_imagenet_class, is_first_lemma.
wordnet_synsets.parquet, one row a synset: synset_id; noun, its first lemma; hypernyms; depth below the root;
is_instance (a proper name); lexicographer_file (animal, artifact, ...).
"""

import hashlib
from functools import cache
from importlib import resources

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dxmc_core.method.nouns import Vocabulary

_NOUNS = "wordnet_nouns.parquet"
_SYNSETS = "wordnet_synsets.parquet"
_FLAGS = {"all": [], "frequent": ["is_frequent", "is_imagenet_class"], "first_lemma": ["is_first_lemma"]}


def wordnet_nouns(subset: str) -> Vocabulary:
    """The nouns of a subset (`all`, `frequent`, `first_lemma`) in alphabetical order."""
    table = _read(_NOUNS)
    flags = _FLAGS[subset]
    if flags:
        keep = table[flags[0]]
        for flag in flags[1:]:
            keep = pc.or_(keep, table[flag])
        table = table.filter(keep)
    return Vocabulary(nouns=table["noun"].to_pylist(), synset_ids=table["synset_id"].to_pylist())


def hypernym_table() -> tuple[dict[str, list[str]], dict[str, str]]:
    """The hypernyms of every noun synset (instance hypernyms too, [] at the root), and the noun that names it."""
    table = _read(_SYNSETS)
    synset_ids = table["synset_id"].to_pylist()
    hypernyms = dict(zip(synset_ids, table["hypernyms"].to_pylist(), strict=True))
    return hypernyms, dict(zip(synset_ids, table["noun"].to_pylist(), strict=True))


@cache
def table_identity() -> str:
    """Digest of both tables: a package with other nouns or hypernyms has another one."""
    return hashlib.sha256(_bytes_of(_NOUNS) + _bytes_of(_SYNSETS)).hexdigest()[:16]


def _read(name: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(_bytes_of(name)))


def _bytes_of(name: str) -> bytes:
    return resources.files("dxmc_core.vocabulary").joinpath(name).read_bytes()
