"""Builds the noun tables that the package ships, from WordNet 3.0 through nltk.

    python scripts/build_wordnet_table.py                                  # nltk downloads WordNet
    python scripts/build_wordnet_table.py --wordnet-dir /usr/share/wordnet   # Debian's package wordnet-base

Writes wordnet_nouns.parquet (one row per noun) and wordnet_synsets.parquet (one row per noun synset) into
dxmc_core/vocabulary. The same WordNet gives the same rows in the same order on every machine.
"""

import argparse
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nltk
import pyarrow as pa
import pyarrow.parquet as pq
from nltk.corpus.reader.wordnet import Synset, WordNetCorpusReader

VOCABULARY_DIR = Path(__file__).resolve().parents[1] / "dxmc_core" / "vocabulary"

#: What WordNet 3.0 holds; another version is refused.
NUM_SYNSETS = 82_115
NUM_PAIRS = 146_347
NUM_NOUNS = 117_798

#: The lexicographer files of things that a photograph can show; a frequent noun's commonest meaning lies in one.
PICTURED_FILES = "animal artifact body food object person phenomenon plant substance"

#: WordNet 3.0's `lexnames`, in order; nltk needs the file, some distributions of WordNet leave it out.
LEXICOGRAPHER_FILES = """
    adj.all adj.pert adv.all
    noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition noun.communication noun.event
    noun.feeling noun.food noun.group noun.location noun.motive noun.object noun.person noun.phenomenon noun.plant
    noun.possession noun.process noun.quantity noun.relation noun.shape noun.state noun.substance noun.time
    verb.body verb.change verb.cognition verb.communication verb.competition verb.consumption verb.contact
    verb.creation verb.emotion verb.motion verb.perception verb.possession verb.social verb.stative verb.weather
    adj.ppl
"""
_PART_OF_SPEECH = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}


@dataclass(frozen=True)
class Sense:
    """One meaning of a noun: the synset, the spelling there, and how often texts were tagged with it."""

    synset: Synset
    spelling: str
    tag_count: int


def open_wordnet(data_dir: Path, wordnet_dir: Path | None) -> WordNetCorpusReader:
    """WordNet as nltk reads it, laid out below `data_dir`: downloaded, or copied from a folder of its dict files."""
    nltk.data.path.insert(0, str(data_dir))
    corpus_dir = data_dir / "corpora" / "wordnet"
    if wordnet_dir is None:
        if not nltk.download("wordnet", download_dir=str(data_dir), quiet=True):
            raise SystemExit("nltk cannot download WordNet; give a folder of its dict files with --wordnet-dir")
        shutil.unpack_archive(corpus_dir.with_suffix(".zip"), corpus_dir.parent)
    else:
        if not (wordnet_dir / "data.noun").is_file():
            raise SystemExit(f"{wordnet_dir} has no data.noun; expected WordNet 3.0's dict folder")
        shutil.copytree(wordnet_dir, corpus_dir)
        _complete(corpus_dir)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nltk misses the wordnets of other languages; nothing here needs them
        return WordNetCorpusReader(str(corpus_dir), None)


def _complete(corpus_dir: Path) -> None:
    """Add the files that nltk opens and Debian leaves out. index.sense stays empty: it is for other languages only."""
    lexnames = corpus_dir / "lexnames"
    if not lexnames.exists():
        lines = [
            f"{number:02d}\t{name}\t{_PART_OF_SPEECH[name.partition('.')[0]]}\n"
            for number, name in enumerate(LEXICOGRAPHER_FILES.split())
        ]
        lexnames.write_text("".join(lines))
    (corpus_dir / "index.sense").touch()


def to_noun(spelling: str) -> str:
    """A lemma as the vocabulary has it: lower case, spaces for underscores."""
    return spelling.replace("_", " ").lower()


def collect_senses(wordnet: WordNetCorpusReader) -> dict[str, list[Sense]]:
    """All meanings of every noun, in WordNet's file order."""
    senses: dict[str, list[Sense]] = {}
    for synset in wordnet.all_synsets("n"):
        for lemma in synset.lemmas():
            senses.setdefault(to_noun(lemma.name()), []).append(Sense(synset, lemma.name(), lemma.count()))
    return senses


def rank_senses(wordnet: WordNetCorpusReader, noun: str, senses: Sequence[Sense]) -> list[Sense]:
    """Meanings by tag count; among equals a common noun before a proper name, then WordNet's own order."""
    numbers = {synset: number for number, synset in enumerate(wordnet.synsets(noun.replace(" ", "_"), "n"))}
    return sorted(
        senses, key=lambda sense: (-sense.tag_count, sense.spelling != sense.spelling.lower(), numbers[sense.synset])
    )


def is_frequent(noun: str, ranked: Sequence[Sense]) -> bool:
    """Tagged in texts, and in its commonest meaning a thing one can photograph and no proper name; letters only.

    Only the commonest meaning is asked for a capital: CAT, the scan, must not cost the vocabulary its cat.
    """
    commonest = ranked[0]
    return (
        commonest.tag_count > 0
        and commonest.synset.lexname().removeprefix("noun.") in PICTURED_FILES.split()
        and commonest.spelling == commonest.spelling.lower()
        and not commonest.synset.instance_hypernyms()
        and noun.replace(" ", "").replace("-", "").isalpha()
    )


def imagenet_nouns(wordnet: WordNetCorpusReader, nouns: set[str]) -> dict[str, Synset]:
    """The nouns of the 1,000 ImageNet classes, with the synset of the class.

    A class takes its plain English name (open_clip's list) where WordNet has that word, else its first lemma. Of two
    classes with one name (crane, maillot) the first counts.
    """
    from open_clip import IMAGENET_CLASSNAMES
    from timm.data import ImageNetInfo

    found: dict[str, Synset] = {}
    for class_name, wordnet_id in zip(IMAGENET_CLASSNAMES, ImageNetInfo().label_names(), strict=True):
        synset = wordnet.synset_from_pos_and_offset("n", int(wordnet_id[1:]))
        noun = class_name.lower() if class_name.lower() in nouns else to_noun(synset.lemma_names()[0])
        found.setdefault(noun, synset)
    return found


def noun_table(wordnet: WordNetCorpusReader) -> pa.Table:
    """One row per noun, in alphabetical order; the columns are explained in dxmc_core/vocabulary."""
    senses = collect_senses(wordnet)
    num_pairs = sum(map(len, senses.values()))
    if (num_pairs, len(senses)) != (NUM_PAIRS, NUM_NOUNS):
        raise SystemExit(
            f"expected WordNet 3.0 with {NUM_PAIRS} (synset, lemma) pairs and {NUM_NOUNS} nouns, "
            f"found {num_pairs} and {len(senses)}"
        )
    first_lemmas = {to_noun(synset.lemma_names()[0]) for synset in wordnet.all_synsets("n")}
    classes = imagenet_nouns(wordnet, set(senses))
    rows = []
    for noun in sorted(senses):
        ranked = rank_senses(wordnet, noun, senses[noun])
        rows.append(
            {
                "noun": noun,
                "synset_id": classes.get(noun, ranked[0].synset).name(),
                "tag_count": sum(sense.tag_count for sense in ranked),
                "is_frequent": is_frequent(noun, ranked),
                "is_imagenet_class": noun in classes,
                "is_first_lemma": noun in first_lemmas,
            }
        )
    schema = pa.schema(
        [
            ("noun", pa.string()),
            ("synset_id", pa.string()),
            ("tag_count", pa.int32()),
            ("is_frequent", pa.bool_()),
            ("is_imagenet_class", pa.bool_()),
            ("is_first_lemma", pa.bool_()),
        ]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def synset_table(wordnet: WordNetCorpusReader) -> pa.Table:
    """One row per noun synset, by name; `hypernyms` holds instance hypernyms too, `depth` counts steps to the root."""
    synsets = sorted(wordnet.all_synsets("n"), key=Synset.name)
    if len(synsets) != NUM_SYNSETS:
        raise SystemExit(f"expected WordNet 3.0 with {NUM_SYNSETS} noun synsets, found {len(synsets)}")
    parents = {synset.name(): _hypernym_names(synset) for synset in synsets}
    depths = _depths(parents)
    return pa.table(
        {
            "synset_id": list(parents),
            "noun": [to_noun(synset.lemma_names()[0]) for synset in synsets],
            "hypernyms": pa.array(parents.values(), pa.list_(pa.string())),
            "depth": pa.array([depths[name] for name in parents], pa.int8()),
            "is_instance": [bool(synset.instance_hypernyms()) for synset in synsets],
            "lexicographer_file": [synset.lexname().removeprefix("noun.") for synset in synsets],
        }
    )


def _hypernym_names(synset: Synset) -> list[str]:
    return sorted(parent.name() for parent in synset.hypernyms() + synset.instance_hypernyms())


def _depths(parents: dict[str, list[str]]) -> dict[str, int]:
    """Steps from the nearest root, breadth first."""
    children: dict[str, list[str]] = {}
    for name, above in parents.items():
        for parent in above:
            children.setdefault(parent, []).append(name)
    level = [name for name, above in parents.items() if not above]
    depths: dict[str, int] = {}
    depth = 0
    while level:
        depths.update(dict.fromkeys(level, depth))
        level = list({child for name in level for child in children.get(name, ()) if child not in depths})
        depth += 1
    return depths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet-dir", type=Path, help="folder with WordNet 3.0's dict files (data.noun, ...)")
    parser.add_argument("--output-dir", type=Path, default=VOCABULARY_DIR)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as data_dir:
        wordnet = open_wordnet(Path(data_dir), arguments.wordnet_dir)
        for name, table in (("nouns", noun_table(wordnet)), ("synsets", synset_table(wordnet))):
            path = arguments.output_dir / f"wordnet_{name}.parquet"
            pq.write_table(table, path, compression="zstd", compression_level=19)
            print(f"{path}: {table.num_rows} rows, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
