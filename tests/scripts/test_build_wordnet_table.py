"""The script that makes the shipped noun tables.

Its whole run needs WordNet 3.0's dict files. Where Debian's package wordnet-base is installed, or DXMC_WORDNET_DIR
names a folder with them, the script is run and must give the shipped tables, row by row.
"""

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

_REPOSITORY = Path(__file__).parents[2]
_SCRIPT = _REPOSITORY / "scripts" / "build_wordnet_table.py"
_WORDNET_DIR = Path(os.environ.get("DXMC_WORDNET_DIR", "/usr/share/wordnet"))


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("build_wordnet_table", _SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@dataclass(frozen=True)
class FakeSynset:
    """As much of nltk's Synset as ranking and filtering look at."""

    synset_name: str
    file: str = "noun.animal"
    is_instance: bool = False

    def name(self) -> str:
        return self.synset_name

    def lexname(self) -> str:
        return self.file

    def instance_hypernyms(self) -> list[str]:
        return ["national_capital.n.01"] if self.is_instance else []


def test_nouns_are_lower_case_with_spaces(script):
    assert script.to_noun("Grand_Piano") == "grand piano"


def test_senses_rank_by_use_then_common_before_proper_then_wordnets_order(script):
    synsets = {number: FakeSynset(f"turkey.n.{number:02d}") for number in (1, 2, 3, 4)}
    senses = [
        script.Sense(synsets[2], "Turkey", 3),
        script.Sense(synsets[1], "turkey", 3),
        script.Sense(synsets[3], "turkey", 0),
        script.Sense(synsets[4], "turkey", 9),
    ]
    wordnet = SimpleNamespace(synsets=lambda noun, part: [synsets[number] for number in (2, 1, 4, 3)])
    ranked = [sense.synset.name() for sense in script.rank_senses(wordnet, "turkey", senses)]
    assert ranked == ["turkey.n.04", "turkey.n.01", "turkey.n.02", "turkey.n.03"]


@pytest.mark.parametrize(
    ("synset", "spelling", "count", "expected"),
    [
        (FakeSynset("cat.n.01"), "cat", 18, True),
        (FakeSynset("cat.n.01"), "cat", 0, False),
        (FakeSynset("idea.n.01", file="noun.cognition"), "idea", 18, False),
        (FakeSynset("cat.n.01"), "Cat", 18, False),
        (FakeSynset("paris.n.01", is_instance=True), "paris", 18, False),
    ],
)
def test_frequent_asks_the_commonest_meaning_only(script, synset, spelling, count, expected):
    scan = script.Sense(FakeSynset("computerized_tomography.n.01", file="noun.act"), "CAT", 0)
    assert script.is_frequent("cat", [script.Sense(synset, spelling, count), scan]) is expected


def test_frequent_nouns_are_words(script):
    assert not script.is_frequent("8-ball", [script.Sense(FakeSynset("eight_ball.n.01"), "8-ball", 5)])


def test_depth_is_the_shortest_way_to_a_root(script):
    parents = {"dog": ["canine", "pet"], "canine": ["animal"], "animal": ["entity"], "pet": ["entity"], "entity": []}
    assert script._depths(parents) == {"entity": 0, "animal": 1, "pet": 1, "canine": 2, "dog": 2}


def test_files_that_debian_leaves_out_are_added(script, tmp_path):
    script._complete(tmp_path)
    lines = (tmp_path / "lexnames").read_text().splitlines()
    assert len(lines) == 45
    assert lines[5] == "05\tnoun.animal\t1"
    assert lines[44] == "44\tadj.ppl\t3"
    assert (tmp_path / "index.sense").read_bytes() == b""


def test_folder_without_wordnet_is_refused(script, tmp_path):
    with pytest.raises(SystemExit, match=r"no data\.noun"):
        script.open_wordnet(tmp_path / "data", tmp_path)


if (_WORDNET_DIR / "data.noun").is_file():

    @pytest.mark.slow
    def test_the_shipped_tables_come_out_again(tmp_path):
        command = [sys.executable, _SCRIPT, "--wordnet-dir", _WORDNET_DIR, "--output-dir", tmp_path]
        subprocess.run(command, check=True)
        for name in ("wordnet_nouns.parquet", "wordnet_synsets.parquet"):
            shipped = pq.read_table(_REPOSITORY / "dxmc_core" / "vocabulary" / name)
            assert pq.read_table(tmp_path / name).equals(shipped)
