"""The two files of WordNet's nouns in the package: wordnet.py reads them, fingerprints know them by their digest."""

import hashlib
from functools import cache
from importlib import resources

NOUNS = "wordnet_nouns.parquet"
SYNSETS = "wordnet_synsets.parquet"


def table_bytes(name: str) -> bytes:
    """The content of one of them."""
    return resources.files("dxmc_core.vocabulary").joinpath(name).read_bytes()


@cache
def table_identity() -> str:
    """Digest of both tables: a package with other nouns or hypernyms has another one."""
    return hashlib.sha256(table_bytes(NOUNS) + table_bytes(SYNSETS)).hexdigest()[:16]
