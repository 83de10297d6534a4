import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter, ValidationError

from dxmc_core.errors import InputError
from dxmc_core.vocabulary import (
    EmbeddingsConfig,
    FileConfig,
    VocabularyConfig,
    WordNetConfig,
    load_vocabulary,
    vocabulary_identity,
)
from dxmc_core.vocabulary.wordnet import commonest_synsets, kinds_of_compounds, wordnet_taxonomy


@pytest.fixture(scope="module")
def every_noun():
    return load_vocabulary(WordNetConfig())


def test_wordnet_has_its_known_number_of_nouns_in_a_fixed_order(every_noun):
    assert len(every_noun.nouns) == len(set(every_noun.nouns)) == 117_798
    assert every_noun.nouns == sorted(every_noun.nouns)
    assert all(noun == noun.lower() and "_" not in noun for noun in every_noun.nouns)
    assert every_noun.embeddings is None


@pytest.mark.parametrize(
    ("noun", "synset_id"),
    [("dog", "dog.n.01"), ("ear", "ear.n.01"), ("turkey", "turkey.n.01"), ("jay", "jay.n.02"), ("fig", "fig.n.04")],
)
def test_a_noun_carries_its_commonest_meaning_or_that_of_its_imagenet_class(every_noun, noun, synset_id):
    assert every_noun.synset_ids[every_noun.nouns.index(noun)] == synset_id


def test_frequent_nouns_are_things_one_can_photograph(every_noun):
    frequent = load_vocabulary(WordNetConfig(subset="frequent"))
    assert len(frequent.nouns) == 5_475
    nouns = set(frequent.nouns)
    assert {"cat", "turkey", "rocket", "grand piano", "egyptian cat", "crane"} <= nouns
    assert not {"europe", "justice", "monday", "thousand", "abraham lincoln"} & nouns
    assert nouns <= set(every_noun.nouns)


def test_nouns_of_any_list_are_looked_up():
    nouns = [
        "Dog",
        "tennis_racket",
        "bat (animal)",
        "matches",
        "Barrel/bucket",
        "Leather Shoes",
        "tall shelf",
        "qqq",
        "qq zz",
    ]
    synset_ids = commonest_synsets(nouns)
    assert synset_ids[:5] == ["dog.n.01", "tennis_racket.n.01", "bat.n.01", "match.n.01", "barrel.n.02"]
    assert synset_ids[5:] == [None] * 4
    kinds = kinds_of_compounds(nouns, synset_ids)
    assert kinds[5:8] == ["shoe.n.01", "shelf.n.01", None]
    assert kinds[:5] == [None] * 5


def test_first_lemmas_head_a_synset():
    vocabulary = load_vocabulary(WordNetConfig(subset="first_lemma"))
    heads = set(wordnet_taxonomy().nouns.values())
    assert set(vocabulary.nouns) == heads
    assert len(vocabulary.nouns) == 67_186


def test_hypernyms_lead_from_every_synset_to_the_root(every_noun):
    taxonomy = wordnet_taxonomy()
    hypernyms = taxonomy.hypernyms
    assert len(hypernyms) == len(taxonomy.nouns) == 82_115
    assert hypernyms["dog.n.01"] == ["canine.n.02", "domestic_animal.n.01"]
    assert hypernyms["paris.n.01"] == ["national_capital.n.01"]  # an instance hypernym
    assert taxonomy.nouns["canine.n.02"] == "canine"
    assert [name for name, above in hypernyms.items() if not above] == ["entity.n.01"]
    assert {parent for above in hypernyms.values() for parent in above} <= hypernyms.keys()
    assert set(every_noun.synset_ids) <= hypernyms.keys()


def test_txt_drops_blank_lines_and_repetitions(tmp_path, caplog):
    path = tmp_path / "nouns.txt"
    path.write_bytes("\ufeffred  fox\r\n\r\nFjord\r\nred fox\r\n  \r\nCafé\r\n".encode())
    with caplog.at_level("INFO"):
        vocabulary = load_vocabulary(FileConfig(kind="file", uri=str(path)))
    assert vocabulary.nouns == ["red fox", "Fjord", "Café"]
    assert vocabulary.synset_ids == [None, None, None]
    assert "3 nouns; dropped 2 blank and 1 repeated" in caplog.text


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_delimited_columns(tmp_path, suffix, delimiter):
    path = tmp_path / f"nouns{suffix}"
    rows = [["noun", "label", "synset_id"], ["dog", "Hund", "dog.n.01"], ["fjord", "Fjord", ""]]
    path.write_text("\n".join(delimiter.join(row) for row in rows))
    vocabulary = load_vocabulary(FileConfig(kind="file", uri=str(path)))
    assert vocabulary.nouns == ["dog", "fjord"]
    assert vocabulary.synset_ids == ["dog.n.01", None]
    assert load_vocabulary(FileConfig(kind="file", uri=str(path), column="label")).nouns == ["Hund", "Fjord"]


def test_parquet_column_on_another_file_system(tmp_path):
    import fsspec

    table = pa.table({"word": pa.array(["dog", None, "cat"]).dictionary_encode(), "weight": [1.0, 2.0, 3.0]})
    with fsspec.open("memory://vocabulary/nouns.parquet", "wb") as file:
        pq.write_table(table, file)
    config = FileConfig(kind="file", uri="memory://vocabulary/nouns.parquet", column="word")
    assert load_vocabulary(config).nouns == ["dog", "cat"]


def _refusal(config: FileConfig | EmbeddingsConfig) -> str:
    with pytest.raises(InputError) as caught:
        load_vocabulary(config)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_lists_that_cannot_be_used(tmp_path):
    def refusal(name: str, content: bytes, column: str | None = None) -> str:
        path = tmp_path / name
        path.write_bytes(content)
        return _refusal(FileConfig(kind="file", uri=str(path), column=column))

    assert "holds no noun" in refusal("empty.txt", b"\n \n")
    assert "not UTF-8" in refusal("latin1.txt", "Café".encode("latin-1"))
    assert "lines, not columns" in refusal("nouns.txt", b"dog", column="noun")
    assert "one of ['label']" in refusal("nouns.csv", b"label\ndog\n")
    assert "not readable Parquet" in refusal("nouns.parquet", b"PAR1")
    assert "expected .txt, .csv" in refusal("nouns.json", b"[]")
    assert "there is no file" in _refusal(FileConfig(kind="file", uri=str(tmp_path / "missing.txt")))
    assert "vocabulary.uri: " in (said := _refusal(FileConfig(kind="file", uri=str(tmp_path))))
    assert "is a folder, expected a file" in said
    os.mkfifo(tmp_path / "pipe.txt")
    assert "a named pipe, expected a file" in _refusal(FileConfig(kind="file", uri=str(tmp_path / "pipe.txt")))
    assert "gcsfs" in _refusal(FileConfig(kind="file", uri="gs://bucket/nouns.txt"))


def test_identity_follows_the_content(tmp_path):
    path, copy = tmp_path / "a.txt", tmp_path / "b.txt"
    path.write_text("dog")
    copy.write_text("dog")
    first = vocabulary_identity(FileConfig(kind="file", uri=str(path)))
    assert first == vocabulary_identity(FileConfig(kind="file", uri=str(copy)))
    path.write_text("dog\ncat")
    assert vocabulary_identity(FileConfig(kind="file", uri=str(path))) != first
    assert vocabulary_identity(FileConfig(kind="file", uri=str(copy), column="x")) != first
    subsets = [vocabulary_identity(WordNetConfig(subset=subset)) for subset in ("all", "frequent")]
    assert subsets[0] != subsets[1]
    with pytest.raises(InputError, match="does not exist"):
        vocabulary_identity(FileConfig(kind="file", uri=str(tmp_path / "missing.txt")))


def test_kind_decides_which_settings_there_are():
    adapter = TypeAdapter(VocabularyConfig)
    assert adapter.validate_python({"kind": "wordnet"}) == WordNetConfig()
    with pytest.raises(ValidationError, match="extra"):
        adapter.validate_python({"kind": "wordnet", "uri": "x"})
    with pytest.raises(ValidationError, match="'all', 'frequent' or 'first_lemma'"):
        adapter.validate_python({"kind": "wordnet", "subset": "rare"})
