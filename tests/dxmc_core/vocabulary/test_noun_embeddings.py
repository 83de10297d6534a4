"""Vocabularies that are embedded already."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxmc_core.errors import InputError
from dxmc_core.vocabulary import EmbeddingsConfig, load_vocabulary

NOUNS = ["dog", "cat", "dog", " "]
EMBEDDINGS = np.arange(1, 13, dtype=np.float16).reshape(4, 3)


def _config(path) -> EmbeddingsConfig:
    return EmbeddingsConfig(kind="embeddings", uri=str(path))


def _npz(tmp_path, **arrays):
    np.savez(tmp_path / "nouns.npz", **arrays)
    return _config(tmp_path / "nouns.npz")


@pytest.mark.parametrize("nouns", [np.array(NOUNS), np.array([noun.encode() for noun in NOUNS])])
def test_npz(tmp_path, nouns):
    vocabulary = load_vocabulary(_npz(tmp_path, nouns=nouns, embeddings=EMBEDDINGS))
    assert vocabulary.nouns == ["dog", "cat"]
    assert vocabulary.embeddings.dtype == np.float16
    assert np.array_equal(vocabulary.embeddings, EMBEDDINGS[:2])


def test_npz_with_synsets(tmp_path):
    synset_ids = np.array(["dog.n.01", "", "dog.n.03", ""])
    vocabulary = load_vocabulary(_npz(tmp_path, nouns=np.array(NOUNS), embeddings=EMBEDDINGS, synset_ids=synset_ids))
    assert vocabulary.synset_ids == ["dog.n.01", None]


@pytest.mark.parametrize("width", [-1, 3])
def test_parquet_of_variable_and_fixed_lists(tmp_path, width):
    table = pa.table({"noun": NOUNS, "embedding": pa.array(EMBEDDINGS.tolist(), pa.list_(pa.float32(), width))})
    pq.write_table(table, tmp_path / "nouns.parquet")
    vocabulary = load_vocabulary(_config(tmp_path / "nouns.parquet"))
    assert vocabulary.nouns == ["dog", "cat"]
    assert np.array_equal(vocabulary.embeddings, EMBEDDINGS[:2])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"nouns": np.array(NOUNS)}, "no array 'embeddings'"),
        ({"nouns": np.array(NOUNS, dtype=object), "embeddings": EMBEDDINGS}, "not an .npz of plain arrays"),
        ({"nouns": np.arange(4), "embeddings": EMBEDDINGS}, "expected text"),
        ({"nouns": np.array(NOUNS[:3]), "embeddings": EMBEDDINGS}, "3 nouns but 4 embeddings"),
        ({"nouns": np.array(NOUNS), "embeddings": EMBEDDINGS[:, 0]}, "expected floats"),
        ({"nouns": np.array(NOUNS), "embeddings": EMBEDDINGS.astype(int)}, "expected floats"),
        ({"nouns": np.array(NOUNS), "embeddings": EMBEDDINGS * [[1], [0], [1], [1]]}, "the first that of 'cat'"),
        ({"nouns": np.array(NOUNS), "embeddings": EMBEDDINGS * [[1], [np.nan], [1], [1]]}, "not finite"),
        ({"nouns": np.array(NOUNS), "embeddings": EMBEDDINGS, "synset_ids": np.array(["x"])}, "1 synset_ids"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path, arrays, message):
    with pytest.raises(InputError, match=message):
        load_vocabulary(_npz(tmp_path, **arrays))


def test_other_files_that_cannot_be_used(tmp_path):
    def refuse(name: str, content: bytes | pa.Table, message: str) -> None:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            pq.write_table(content, path)
        with pytest.raises(InputError, match=message):
            load_vocabulary(_config(path))

    refuse("damaged.npz", b"PK\x03\x04", "not an .npz of plain arrays")
    refuse("array.npy", b"", "expected a file ending in .npz or .parquet")
    refuse("missing.parquet", pa.table({"noun": ["dog"]}), "no column 'embedding'")
    refuse("numbers.parquet", pa.table({"noun": ["dog"], "embedding": [1.0]}), "expected lists of floats, found double")
    ragged = pa.table({"noun": ["dog", "cat"], "embedding": [[1.0], [1.0, 2.0]]})
    refuse("ragged.parquet", ragged, r"widths \[1, 2\], expected one width")


@pytest.mark.data
def test_nouns_of_clip(evaluation_data):
    vocabulary = load_vocabulary(_config(evaluation_data / "clip_vitb32" / "nouns.npz"))
    assert vocabulary.embeddings.shape == (len(vocabulary.nouns), 512)
    assert len(vocabulary.nouns) == 1615
