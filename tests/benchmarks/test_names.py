"""The benchmark of names: what it judges, and that planted clusters get the names of their classes."""

import json
from pathlib import Path

import names as benchmark
import numpy as np
import pytest

from dxmc_core.evaluation.name_agreement import NounSenses

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NOUNS = ["dog", "cat", "automobile", "pine tree", "thief", "fork", "cup", "hat", "bench", "river", "bread", "lamp"]


@pytest.fixture
def folder(tmp_path):
    """Three classes of 40 rows about three of the nouns, and their clusters in the cache."""
    rng = np.random.default_rng(0)
    nouns = rng.standard_normal((len(NOUNS), 32))  # far from one another
    labels = np.repeat([0, 1, 2], 40)
    embeddings = nouns[[0, 2, 3]][labels] + 0.5 * rng.standard_normal((120, 32))
    np.savez(tmp_path / "planted.npz", embeddings=embeddings, labels=labels)
    np.savez(tmp_path / "nouns.npz", embeddings=nouns, nouns=np.array(NOUNS))
    (tmp_path / "class_names.json").write_text(json.dumps({"planted": ["dog", "car", "zzz"]}))
    np.savez(tmp_path / "planted-0.npz", labels=labels, confidences=np.ones(120))
    return tmp_path


def test_planted_clusters_get_the_names_of_their_classes(folder, capsys):
    table = folder / "names.md"
    options = ["--data", str(folder), "--datasets", "planted", "--cache", str(folder), "--markdown", str(table)]
    assert benchmark.main(options) == 0
    results = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in results] == ["dxmc", "nearest", "c_tf_idf"]
    for row in results[:2]:
        assert [case["name"] for case in row["clusters"]] == ["dog", "automobile", "pine tree"]
        assert [case["relation"] for case in row["clusters"]] == ["equal", "synonym", "unknown"]
        assert (row["known"], row["right"], row["exact"]) == (2, 100, 100)
    assert table.read_text().count("| 100.0 | 100.0 | 1.0 | 1.0 |") >= 2


def test_only_classes_that_the_vocabulary_has_a_noun_for_count(folder):
    senses = NounSenses()
    vocabulary = benchmark.read_nouns(folder, senses)
    assert "thief" not in vocabulary.nouns
    labels = np.arange(4)
    classes = np.array(["dog", "cat", "spoon", "fork"])
    found = benchmark.judge(["animal", "", "cutlery", "dog (fork)"], labels, classes, vocabulary, senses)
    assert [case["relation"] for case in found["clusters"]] == ["hypernym", "unnamed", "hypernym", "other"]
    assert found["known"] == 3
    assert found["right"] == pytest.approx(100 / 3)
    assert (found["exact"], found["with_second_word"]) == (0, 0)


def test_other_numbers_of_classes_than_names_are_an_error(folder, capsys):
    (folder / "class_names.json").write_text(json.dumps({"planted": ["dog"]}))
    assert benchmark.main(["--data", str(folder), "--datasets", "planted"]) == 2
    assert "3 classes have rows, class_names.json names 1" in capsys.readouterr().err
