"""The nouns that `fit` is given: checked, without repetitions, and the names that clusters get by them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_array

from dxmc_core.errors import InputError
from dxmc_core.extras import needed_for
from dxmc_core.method.clusters.cluster_sample import ClusterSample
from dxmc_core.method.nouns.naming import ClusterName
from dxmc_core.method.nouns.taxonomy import NO_TAXONOMY, Taxonomy
from dxmc_core.method.nouns.vocabulary import distinct_nouns
from dxmc_core.method.preparation import as_stored
from dxmc_core.method.unit_rows import check_same_width
from dxmc_core.withheld_nouns import names_by_shown_nouns

#: Types of numbers that are kept until rows are rounded to float16.
FLOATS = (np.float64, np.float32, np.float16)


@dataclass(frozen=True)
class GivenNouns:
    """Nouns that count, in the order given.

    Attributes:
        positions: (M',) int64 of the rows that are left.
        embeddings: (M', D) float16 unit rows.
        nouns, synset_ids: M' each; `nouns` is None when only embeddings were given.
    """

    positions: np.ndarray
    embeddings: np.ndarray
    nouns: list[str] | None
    synset_ids: list[str | None]

    def hypernyms(self, reads: Collection[str]) -> np.ndarray | None:
        """Pairs of a noun and its hypernym, where a method reads them and synsets are known."""
        if "noun_embeddings" not in reads or not any(self.synset_ids):
            return None
        return _taxonomy().pairs(self.synset_ids)

    def names(self, sample: ClusterSample, *, judging: bool) -> list[ClusterName] | None:
        """Names by all nouns, as assign_clusters gives them to a run that is not sampled."""
        if self.nouns is None:
            return None
        kinds, taxonomy = self._in_wordnet()
        return names_by_shown_nouns(
            sample, self.embeddings, self.nouns, self.synset_ids, kinds=kinds, taxonomy=taxonomy, judging=judging
        )

    def _in_wordnet(self) -> tuple[list[str | None], Taxonomy]:
        """Kinds of the nouns, and the concepts above them; nothing where no synset is known."""
        assert self.nouns is not None
        if not any(self.synset_ids):
            return self.synset_ids, NO_TAXONOMY
        with needed_for("synset_ids", extra="pipeline"):
            from dxmc_core.vocabulary.wordnet import kinds_of_compounds  # late: it reads Parquet
        return kinds_of_compounds(self.nouns, self.synset_ids), _taxonomy()


def given_nouns(
    noun_embeddings: ArrayLike | None,
    nouns: Sequence[str] | None,
    synset_ids: Sequence[str | None] | Literal["wordnet"] | None,
    *,
    images: np.ndarray,
) -> GivenNouns | None:
    """The vocabulary as the pipeline would keep it, or None when none was given."""
    if noun_embeddings is None:
        if nouns is not None or synset_ids is not None:
            raise ValueError("expected noun_embeddings along with nouns and synset_ids, found none")
        return None
    if isinstance(synset_ids, str):
        synset_ids = _looked_up(synset_ids, nouns)
    rows = check_array(noun_embeddings, dtype=FLOATS, input_name="noun_embeddings")
    check_same_width(images, rows, names=("X", "noun_embeddings"))
    for name, given in (("nouns", nouns), ("synset_ids", synset_ids)):
        if given is not None and len(given) != len(rows):
            raise ValueError(f"expected {name} of length {len(rows)} like noun_embeddings, found {len(given)}")
    embeddings = as_stored(rows, name="noun_embeddings")
    positions = np.arange(len(rows))
    if nouns is None:
        return GivenNouns(positions, embeddings, None, list(synset_ids or [None] * len(rows)))
    try:
        # Positions travel where embeddings do, to learn which nouns were kept.
        distinct = distinct_nouns(list(nouns), synset_ids=synset_ids, embeddings=positions, where="nouns")
    except InputError as error:
        raise ValueError(str(error)) from error
    assert distinct.embeddings is not None
    kept = distinct.embeddings
    return GivenNouns(kept, embeddings[kept], distinct.nouns, distinct.synset_ids)


def _looked_up(synset_ids: str, nouns: Sequence[str] | None) -> list[str | None]:
    if synset_ids != "wordnet" or nouns is None:
        raise ValueError(f'expected synset_ids to be a list, or "wordnet" along with nouns, found {synset_ids!r}')
    with needed_for('synset_ids="wordnet"', extra="pipeline"):
        from dxmc_core.vocabulary.wordnet import commonest_synsets  # late: it reads Parquet
    return commonest_synsets(list(nouns))


def _taxonomy() -> Taxonomy:
    with needed_for("synset_ids", extra="pipeline"):
        from dxmc_core.vocabulary.wordnet import wordnet_taxonomy  # late: it reads Parquet
    return wordnet_taxonomy()
