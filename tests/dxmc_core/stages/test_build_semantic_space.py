"""The nouns that describe the images, their cache, and one text counterpart an image."""

import numpy as np
import pyarrow as pa
import pytest

from dxmc_core.artifacts.matrices import load_matrix
from dxmc_core.errors import InputError
from dxmc_core.method.nouns.vocabulary import Vocabulary
from dxmc_core.stages.build_semantic_space import NounCache, check_vocabulary_width, noun_table, retrieval_temperature
from dxmc_core.stages.settings.build_semantic_space import BuildSemanticSpaceConfig, fingerprint
from dxmc_core.vocabulary import FileConfig, WordNetConfig

VOCABULARY = Vocabulary(["a", "b"], ["a.n.01", None], np.array([[3.0, 4.0], [0.0, 2.0]]))


def test_counterparts_lie_at_the_noun_of_the_group(planted_run):
    images = load_matrix(planted_run.run_dir.stage("embed_images"), "images")
    texts = load_matrix(planted_run.run_dir.stage("build_semantic_space"), "text_counterparts")
    assert np.array_equal(images.row_ids, texts.row_ids)
    means = np.stack([texts.values[planted_run.labels == group].astype(np.float32).mean(axis=0) for group in range(4)])
    assert (np.argmax(texts.values.astype(np.float32) @ means.T, axis=1) == planted_run.labels).mean() > 0.98


def test_noun_table_is_normalised_and_carries_the_temperature():
    table = noun_table(VOCABULARY, VOCABULARY.embeddings, temperature=0.03)
    assert table["embedding"].to_pylist()[0] == pytest.approx([0.6, 0.8], abs=1e-3)
    assert retrieval_temperature(BuildSemanticSpaceConfig(), table) == 0.03
    assert retrieval_temperature(BuildSemanticSpaceConfig(temperature=0.5), table) == 0.5


@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_unusable_noun_embeddings_are_named(bad):
    embeddings = VOCABULARY.embeddings.copy()
    embeddings[1] = bad
    with pytest.raises(InputError, match="noun 'b'"):
        noun_table(VOCABULARY, embeddings, temperature=0.03)


def test_vocabulary_of_another_width():
    with pytest.raises(InputError, match="width 2, the images' have 512"):
        check_vocabulary_width(VOCABULARY, 512)


def test_cache_gives_back_what_was_saved_and_ignores_damage(tmp_path):
    config = BuildSemanticSpaceConfig(noun_cache_uri=str(tmp_path / "cache"))
    cache = NounCache.of(config, WordNetConfig(kind="wordnet"), None, str(tmp_path / "run"))
    assert cache.load() is None
    table = noun_table(VOCABULARY, VOCABULARY.embeddings, temperature=0.03)
    cache.save(table)
    assert cache.load().to_pylist() == table.to_pylist()
    assert retrieval_temperature(config, cache.load()) == 0.03
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    assert cache.load() is None


def test_cache_and_fingerprint_follow_the_vocabulary(tmp_path):
    def of(vocabulary):
        config = BuildSemanticSpaceConfig()
        cache = NounCache.of(config, vocabulary, None, "runs/x")
        return cache.name, fingerprint(config, vocabulary, None, num_clusters=5, seed=0, inputs={})

    path = tmp_path / "nouns.txt"
    path.write_text("cat\ndog\n")
    file = FileConfig(kind="file", uri=str(path))
    before = of(file)
    path.write_text("cat\ndog\nbird\n")
    identities = [
        before,
        of(file),
        of(WordNetConfig(kind="wordnet")),
        of(WordNetConfig(kind="wordnet", subset="frequent")),
    ]
    keys, fingerprints = zip(*identities, strict=True)
    assert len(set(keys)) == len(set(fingerprints)) == 4


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    vocabulary = WordNetConfig(kind="wordnet")
    config = BuildSemanticSpaceConfig()
    assert NounCache.of(config, vocabulary, None, "/data/run").storage.uri == str(tmp_path / "dxmc")
    assert NounCache.of(config, vocabulary, None, "s3://bucket/dxmc/run").storage.uri == "s3://bucket/dxmc/_noun_cache"
    assert NounCache.of(config, vocabulary, None, "s3://bucket").storage.uri == "s3://bucket/_noun_cache"


def test_noun_columns_keep_synsets():
    table = noun_table(VOCABULARY, VOCABULARY.embeddings, temperature=0.03)
    assert table["synset_id"].to_pylist() == ["a.n.01", None]
    assert isinstance(table, pa.Table)
