"""`dxmc recluster` over several nights: what is new is assigned, what drifts is clustered anew, ids stay."""

import json
import subprocess
import sys

import numpy as np
import pytest

from dxmc_core.artifacts.generations import Generations
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import ASSIGNMENTS, CLUSTERS
from dxmc_core.errors import InputError
from dxmc_core.search import open_run
from ray_jobs import cli

#: Several nights in one process: each is a file that becomes the source, or "-" for what is there.
_NIGHTS = """
import json, shutil, sys
from ray_jobs.cli import make_parser
from ray_jobs.program import configure_logging
configure_logging()
config, source, *nights = sys.argv[1:]
for file in nights:
    if file != "-":
        shutil.copyfile(file, source)
    parsed = make_parser().parse_args(["recluster", "--config", config, "--json"])
    parsed.command.execute(parsed)
    print("---")
"""


class Place:
    """A home of generations over a file of embeddings that is another one every night."""

    def __init__(self, planted, folder, environment):
        with np.load(planted.folder / "images.npz") as file:
            self._embeddings, self._labels = file["embeddings"], file["labels"]
        self._folder, self._environment = folder, environment
        self.home, self._source = folder / "home", folder / "images.npz"
        self.config = planted.config(
            self.home,
            source={"kind": "embeddings", "uri": str(self._source)},
            method={"name": "kmeans"},
            mine_neighbors={"search_index": "ivf"},
            # Limits that only a new group exceeds: 400 images of 32 random dimensions fit their own centres too well.
            recluster={"min_arrivals": 20, "max_far_rise": 0.3, "max_distance_rise": 1, "max_confidence_drop": 1},
        )

    def file(self, rows):
        path = self._folder / f"night-{len(rows)}.npz"
        ids = np.array([f"image-{row:04}" for row in rows])
        np.savez(path, embeddings=self._embeddings[rows], labels=self._labels[rows], image_ids=ids)
        return str(path)

    def nights(self, *nights):
        command = [sys.executable, "-c", _NIGHTS, self.config, str(self._source), *nights]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(text) for text in done.stdout.split("---\n") if text]

    def stage(self, number):
        return Generations(RunDir.at(str(self.home))).run_dir(number).stage("assign_clusters")

    def ids(self, number):
        """Cluster of each row of the planted file."""
        table = self.stage(number).read_table(ASSIGNMENTS)
        rows = [int(image_id[-4:]) for image_id in table["image_id"].to_pylist()]
        assert len(set(rows)) == len(rows)
        return dict(zip(rows, table["cluster_id"].to_pylist(), strict=True))


@pytest.mark.ray
def test_nights_of_assignments_a_new_group_and_the_way_back(dxmc, planted, tmp_path):
    place = Place(planted, tmp_path, dxmc.environment)
    rows = np.arange(600)
    first = rows[(rows < 500) & (rows % 10 < 8)]
    second = rows[(rows < 500) & (rows % 10 < 9)][20:]  # 48 came, 18 went
    third = np.concatenate([second, rows[500:580]])  # and a group that was not there
    files = [place.file(chosen) for chosen in (first, second, third)]
    made = place.nights(files[0], "-", files[1], files[2])

    assert [night["generation"] for night in made] == [1, None, 2, 3]
    assert [night.get("mode") for night in made] == ["full", None, "assign", "full"]
    assert "first clustering" in made[0]["reason"]
    assert "within its limits" in made[2]["reason"]
    assert "above max_far_rise 0.3, in the 80 newest images" in made[3]["reason"]
    assert (made[0]["drift"], made[3]["drift"]["num_arrivals"]) == ({}, 80)

    lineage = made[2]["lineage"]
    assert [lineage[key] for key in ("new_images", "removed_images", "moved_images", "died")] == [48, 18, 0, 0]
    before, after, last = (place.ids(number) for number in (1, 2, 3))
    assert [set(ids) for ids in (before, after, last)] == [set(chosen.tolist()) for chosen in (first, second, third)]
    assert all(after[row] == before[row] for row in after.keys() & before.keys())
    clusters = place.stage(2).read_table(CLUSTERS).to_pylist()
    assert {row["cluster_id"]: row["size"] for row in clusters} == {
        cluster: list(after.values()).count(cluster) for cluster in set(after.values())
    }

    (new,) = {last[row] for row in range(500, 580)}
    assert new not in before.values()
    for group in range(5):
        members = [row for row in second.tolist() if row // 100 == group]
        assert {last[row] for row in members} & {after[row] for row in members}

    kept = Generations(RunDir.at(str(place.home))).run_dir(2).stage("mine_neighbors").require_manifest()
    index = kept.metrics["search_index"]["index.faiss"]
    assert (index["added"], index["removed"], index["rows"]) == (48, 18, len(second))
    with open_run(str(place.home / "generations" / "000002")) as run:
        assert run._index is not None
        assert len(run.query(f"image-{second[0]:04}", top=5).images) == 5

    assert "generation 3" in dxmc("status", str(place.home)).stdout
    assert dxmc("rollback", str(place.home)).stdout.splitlines()[1].startswith("*      2")
    assert json.loads(dxmc("evaluate", str(place.home), "--json").stdout)["images"] == len(second)


@pytest.mark.ray
def test_what_a_person_corrects_is_kept_by_later_nights(dxmc, planted, tmp_path):
    place = Place(planted, tmp_path, dxmc.environment)
    rows = np.arange(600)
    place.nights(place.file(rows[rows % 10 < 8]))
    before = place.ids(1)
    first, second = before[100], before[0]
    dxmc("edit", str(place.home), "merge", str(first), str(second), "--name", "fruit on wheels")
    (night,) = place.nights(place.file(rows))
    assert (night["generation"], night["mode"]) == (3, "assign")
    dxmc("recluster", "--config", place.config, "--mode", "full")
    for number in (2, 3, 4):
        ids = place.ids(number)
        assert {ids[row] for row in ids if row < 200} == {first}
        names = {row["cluster_id"]: row["name"] for row in place.stage(number).read_table(CLUSTERS).to_pylist()}
        assert len(names) == 5
        assert names[first] == "fruit on wheels"
    dxmc("edit", str(place.home), "undo")
    ids = place.ids(5)
    assert {ids[row] for row in ids if row < 100}.isdisjoint(ids[row] for row in ids if 100 <= row < 200)


def test_what_cannot_be_done_is_said_before_ray_starts(planted, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    place = Place(planted, tmp_path, {})
    np.savez(tmp_path / "images.npz", embeddings=np.eye(3, dtype=np.float32))

    def recluster(*arguments):
        parsed = cli.make_parser().parse_args(["recluster", "--config", place.config, *arguments])
        parsed.command.execute(parsed)

    with pytest.raises(InputError, match="no clusters yet to assign to"):
        recluster("--mode", "assign")
    with RunDir.at(str(place.home)).locked(), pytest.raises(InputError, match="in use by another run"):
        recluster()
