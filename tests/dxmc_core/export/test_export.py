"""Exports: every image once with its record, in the layout that is asked for, and nothing outside its folder."""

import json
import os
import sys
import tarfile
from dataclasses import dataclass, field
from types import ModuleType

import pytest

from dxmc_core.errors import ArtifactError, InputError
from dxmc_core.export import FORMATS, export_run, webdataset

HOSTILE = [
    "../../outside",
    "/etc/passwd",
    "a\nb",
    "..",
    "café/ü.png",
    "",
    "C:\\x",
    "-rf",
    "x" * 300,
    "{}",
    ".hidden",
    "a",
]


def export(run, folder, format="huggingface", **kwargs):
    return export_run(run.run_dir, run.config, format=format, output=str(folder), **kwargs)


def records_of(folder):
    lines = (folder / "train/metadata.jsonl").read_text().splitlines()
    return {record["image_id"]: record for record in map(json.loads, lines)}


def samples_of(folder):
    """Members by key and suffix, read as WebDataset reads them: the key ends at the first dot of the name."""
    samples = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                key, suffix = member.name.split(".", 1)
                samples.setdefault((path.name, key), {})[suffix] = archive.extractfile(member).read()
    return samples


def test_huggingface_folder(make_color_run, tmp_path):
    run = make_color_run()
    counted = []
    exported = export(run, tmp_path / "out", on_images=counted.append)
    assert (exported.images, exported.skipped, sum(counted)) == (12, 0, 12)
    records = records_of(tmp_path / "out")
    assert set(records) == set(run.image_ids)
    record = records["green/1.png"]
    assert next(iter(record)) == "file_name"
    assert (record["cluster"], record["cluster_id"], record["label"]) == ("green", 1, "green")
    assert 0.5 <= record["confidence"] <= 1
    copied = tmp_path / "out/train" / record["file_name"]
    assert copied.read_bytes() == (run.photos / "05.png").read_bytes()
    assert len({record["file_name"] for record in records.values()}) == 12


def test_webdataset_shards_hold_one_cluster_each(make_color_run, tmp_path):
    run = make_color_run()
    assert export(run, tmp_path / "out", "webdataset").images == 12
    samples = samples_of(tmp_path / "out")
    assert len({key for _, key in samples}) == len(samples) == 12
    for (shard, key), members in samples.items():
        record = json.loads(members["json"])
        assert shard == f"cluster-{record['cluster_id']:05}-000000.tar"
        assert members["cls"].decode() == str(record["cluster_id"])
        assert members["png"] == (run.photos / f"{int(key):02}.png").read_bytes()
        assert record["image_id"] == run.image_ids[int(key)]


def test_full_shards_are_followed_by_others(make_color_run, tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset, "MAX_SHARD_BYTES", 4000)
    export(make_color_run(), tmp_path / "out", "webdataset")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(names) > 3
    assert names[0] == "cluster-00000-000000.tar"
    assert len(samples_of(tmp_path / "out")) == 12


@pytest.mark.parametrize("format", ["huggingface", "webdataset"])
def test_ids_of_any_kind_stay_inside(make_color_run, tmp_path, format):
    run = make_color_run("run", image_ids=HOSTILE)
    before = set(tmp_path.rglob("*"))
    assert export(run, tmp_path / "out/deep", format).images == 12
    made = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "out") for path in made)
    assert all(path.name.isascii() and path.name.replace(".", "").replace("-", "").isalnum() for path in made)
    if format == "huggingface":
        assert set(records_of(tmp_path / "out/deep")) == set(HOSTILE)
    else:
        found = {json.loads(members["json"])["image_id"] for members in samples_of(tmp_path / "out/deep").values()}
        assert found == set(HOSTILE)


def test_files_that_have_gone_are_listed(make_color_run, tmp_path):
    run = make_color_run()
    (run.photos / "00.png").unlink()
    (run.photos / "01.png").write_bytes(b"something else")
    exported = export(run, tmp_path / "out")
    assert (exported.images, exported.skipped) == (10, 2)
    skipped = [json.loads(line) for line in (tmp_path / "out/skipped.jsonl").read_text().splitlines()]
    assert [row["image_id"] for row in skipped] == ["red/0.png", "red/1.png"]
    assert skipped[1]["reason"] == "the file is no image any more"


def test_a_failed_export_leaves_nothing(make_color_run, tmp_path):
    run = make_color_run()

    def stop(_count):
        raise KeyboardInterrupt

    before = set(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        export(run, tmp_path / "out", on_images=stop)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("make", ["folder", "file", "link"])
def test_what_somebody_makes_in_its_place_meanwhile_stays(make_color_run, tmp_path, make):
    run, place = make_color_run(), tmp_path / "out"

    def make_it(_count):
        if not os.path.lexists(place):
            {"folder": place.mkdir, "file": place.touch, "link": lambda: place.symlink_to("nowhere")}[make]()

    with pytest.raises(InputError, match="was made by somebody else meanwhile"):
        export(run, place, on_images=make_it)
    assert os.path.lexists(place)
    assert not (place.is_dir() and any(place.iterdir()))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


def test_what_cannot_be_exported(make_color_run, tmp_path):
    run = make_color_run()
    with pytest.raises(InputError, match="is there already"):
        export(run, tmp_path)
    with pytest.raises(InputError, match="expected a local folder"):
        export(run, "s3://bucket/out")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        export(run, tmp_path / "file/out")
    with pytest.raises(InputError, match="has no image files to export"):
        export(make_color_run("bare", files=False), tmp_path / "out")
    with pytest.raises(ArtifactError, match="run assign_clusters first"):
        export_run(
            type(run.run_dir).at(str(tmp_path / "none")), run.config, format=FORMATS[0], output=f"{tmp_path}/out"
        )


@dataclass
class FakeDataset:
    """What of FiftyOne's Dataset is used."""

    name: str
    persistent: bool = False
    samples: list = field(default_factory=list)

    def add_samples(self, samples):
        self.samples += samples


class FakeSample(dict):
    """What of FiftyOne's Sample is used: fields by name."""


@pytest.fixture
def fiftyone(monkeypatch):
    """FiftyOne's part that is used; the package brings a database server and is not among the tests' packages."""
    made = {}

    def dataset(name, persistent=False):
        made[name] = FakeDataset(name, persistent)
        return made[name]

    module = ModuleType("fiftyone")
    module.Dataset, module.Sample, module.Classification = dataset, FakeSample, dict
    module.dataset_exists = made.__contains__
    monkeypatch.setitem(sys.modules, "fiftyone", module)
    return made


def test_fiftyone_dataset(make_color_run, tmp_path, fiftyone):
    export(make_color_run(), tmp_path / "look", "fiftyone")
    dataset = fiftyone["look"]
    assert dataset.persistent
    sample = next(sample for sample in dataset.samples if sample["image_id"] == "blue/2.png")
    assert sample["cluster"]["label"] == "blue"
    assert sample["ground_truth"] == {"label": "blue"}
    assert len(dataset.samples) == 12
    assert (tmp_path / "look/train" / sample["filepath"]).is_file()
    with pytest.raises(InputError, match="has a dataset 'look' already"):
        export(make_color_run(), tmp_path / "other/look", "fiftyone")


def test_without_fiftyone_there_is_a_clear_error(make_color_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(InputError, match="pip install fiftyone"):
        export(make_color_run(), tmp_path / "look", "fiftyone")
    assert not (tmp_path / "look").exists()
