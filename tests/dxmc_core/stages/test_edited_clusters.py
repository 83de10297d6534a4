"""Edits through nights: a month of arrivals, deletions and full clusterings whose labels are others every time."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dxmc_core.artifacts.matrices import embedding_column, matrix_of
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import ASSIGNMENTS, CATALOG, CENTERS, CLUSTERS, IMAGES
from dxmc_core.edits.model import Edit, Split
from dxmc_core.edits.references import hidden_clusters, read_outcomes, references_to
from dxmc_core.stages.edited_clusters import ClusteredImages, EditedTables, edit_clusters, is_edited
from dxmc_core.stages.settings.assign_clusters import AssignClustersConfig

NUM_CLASSES, WIDTH = 6, 8
FINGERPRINT = "e" * 32


@dataclass
class Home:
    """Nights of one source, without Ray: what the heads say is planted, everything after them is the real thing.

    Class 0 is two things, of which images 0a.. and 0b.. are examples; classes 4 and 5 look alike and are one.
    """

    folder: Path
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))
    images: dict[str, np.ndarray] = field(default_factory=dict)
    number: int = 0
    edits: tuple[Edit, ...] = ()

    def run_dir(self, number: int) -> RunDir:
        return RunDir.at(str(self.folder / f"{number:06}"))

    @property
    def current(self) -> RunDir:
        return self.run_dir(self.number)

    def arrive(self, count: int) -> None:
        for _ in range(count):
            label = int(self.rng.integers(NUM_CLASSES))
            half = "ab"[int(self.rng.integers(2))]
            row = np.eye(WIDTH)[label] + 0.05 * self.rng.normal(size=WIDTH)
            row[6] += (0.35 if half == "a" else -0.35) * (label == 0)
            self.images[f"{label}{half}{len(self.images):04}-{self.rng.integers(1 << 30)}"] = row / np.linalg.norm(row)

    def leave(self, count: int, *, but: set[str]) -> None:
        for image in self.rng.permutation([image for image in self.images if image not in but])[:count]:
            del self.images[image]

    def of_class(self, label: int, half: str = "") -> list[str]:
        return [image for image in self.images if image.startswith(f"{label}{half}")]

    def night(self, *, is_full: bool) -> EditedTables:
        """The next generation, by new heads of other labels, or by those there are."""
        before, self.number = (self.current if self.number else None), self.number + 1
        names = sorted(self.images)
        rows = np.stack([self.images[name] for name in names])
        images, output = self.current.stage("embed_images"), self.current.stage("assign_clusters")
        row_ids = np.arange(len(names))
        table = pa.table({"row_id": row_ids, "image_id": names, "embedding": embedding_column(rows.astype(np.float16))})
        catalog = [
            {"row_id": row, "image_id": name, "uri": name, "size": 1, "etag": ""} for row, name in enumerate(names)
        ]
        tables = {
            "images": table.cast(IMAGES.schema(WIDTH)),
            "catalog": pa.Table.from_pylist(catalog, schema=CATALOG.schema()),
        }
        parts = {name: [images.write_part(name, table, fingerprint=FINGERPRINT)] for name, table in tables.items()}
        images.publish(fingerprint=FINGERPRINT, inputs={}, tables=parts, seconds=0.0)
        if is_full or before is None:
            found = self._clustered_anew(rows, names, ids=None, centers=None)
        else:
            known = ClusteredImages.published(before.stage("assign_clusters"))
            found = self._clustered_anew(rows, names, ids=known.cluster_ids, centers=known)
        edited = edit_clusters(
            found,
            self.edits,
            images=images,
            output=output,
            fingerprint=FINGERPRINT,
            config=AssignClustersConfig(),
            previous_run=None if before is None else before.uri,
        )
        edited.written(output, fingerprint=FINGERPRINT).publish(output, fingerprint=FINGERPRINT, inputs={}, started=0.0)
        self.edits = edited.edits
        return edited

    def _clustered_anew(
        self, rows: np.ndarray, names: list[str], *, ids: np.ndarray | None, centers: ClusteredImages | None
    ) -> ClusteredImages:
        means = np.eye(WIDTH)[self.rng.permutation(NUM_CLASSES)]
        if centers is not None:
            means = matrix_of(centers.centers["embedding"])
        scores = rows @ means.T
        labels, second = np.argsort(-scores, axis=1)[:, :2].T
        own = labels if ids is None else ids[labels]
        next_best = second if ids is None else ids[second]
        count = len(names)
        assignments = pa.table(
            {
                "row_id": np.arange(count),
                "image_id": names,
                "cluster_id": own.astype(np.int32),
                "confidence": np.full(count, 0.8, np.float32),
                "runner_up": next_best.astype(np.int32),
                "margin": np.full(count, 0.5, np.float32),
                "outlier_score": np.ones(count, np.float32),
            }
        ).cast(ASSIGNMENTS.schema())
        output = self.current.stage("assign_clusters")
        part = output.write_part("assignments", assignments, fingerprint=FINGERPRINT)
        if centers is not None:
            return ClusteredImages(output, [part], centers.centers, centers.clusters, ids)
        described = pa.table(
            {
                "cluster_id": pa.array(range(NUM_CLASSES), pa.int32()),
                "mean_distance": pa.array([0.1] * NUM_CLASSES, pa.float32()),
                "embedding": embedding_column(means.astype(np.float32)),
            }
        ).cast(CENTERS.schema(WIDTH))
        clusters = [
            {"cluster_id": label, "size": int((labels == label).sum()), "name": f"word {means[label].argmax()}",
             "names": [], "name_evidence": [], "name_source": "noun", "exemplars": [], "border": [], "cohesion": 0.9,
             "mean_confidence": 0.8, "nearest_clusters": []}
            for label in range(NUM_CLASSES)
        ]  # fmt: skip
        return ClusteredImages(
            output, [part], described, pa.Table.from_pylist(clusters, schema=CLUSTERS.schema()), None
        )

    def ids(self) -> dict[str, int]:
        table = self.current.stage("assign_clusters").read_table(ASSIGNMENTS)
        return dict(zip(table["image_id"].to_pylist(), table["cluster_id"].to_pylist(), strict=True))

    def names(self) -> dict[int, str]:
        table = self.current.stage("assign_clusters").read_table(CLUSTERS)
        return dict(zip(table["cluster_id"].to_pylist(), table["name"].to_pylist(), strict=True))

    def reference(self, cluster_id: int) -> dict:
        return references_to(self.current, [cluster_id])[cluster_id].model_dump()

    def edit(self, **action: object) -> None:
        head = {"id": f"{len(self.edits):08x}", "author": "ann", "at": "2026-11-30T12:00:00Z"}
        self.edits = (*self.edits, Edit.model_validate({**head, **action}))


def only(ids: dict[str, int], images: list[str]) -> int:
    """The one cluster that images are in."""
    (found,) = {ids[image] for image in images}
    return found


def test_a_month_with_edits_on_five_nights(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.arrive(300)
    home.night(is_full=True)
    kept: set[str] = set()
    stray = pinned = None
    expected: dict[str, int] = {}
    for night in range(2, 31):
        home.arrive(20)
        home.leave(8, but=kept)
        ids = home.ids()
        if night == 3:
            first, second = (only(ids, [i for i in home.of_class(label) if i in ids]) for label in (4, 5))
            home.edit(merge={"clusters": [home.reference(first), home.reference(second)], "name": "one thing"})
            expected["merged"] = first
        if night == 8:
            cluster = only(ids, [image for image in home.of_class(0) if image in ids])
            home.edit(split={"cluster": home.reference(cluster), "into": 2})
        if night == 13:
            stray = next(image for image in home.of_class(1) if image in ids)
            kept.add(stray)
            target = only(ids, [image for image in home.of_class(2) if image in ids])
            home.edit(move={"images": [stray], "to": home.reference(target)})
            home.edit(rename={"cluster": home.reference(target), "name": "twos & <i>one</i>"})
        if night == 18:
            cluster = only(ids, [image for image in home.of_class(3) if image in ids])
            home.edit(pin={"cluster": home.reference(cluster)})
            home.edit(hide={"cluster": home.reference(cluster)})
            expected["pinned"] = cluster
        if night == 23:
            examples = [image for image in home.of_class(1, "a") if image in ids and image != stray][:4]
            kept |= set(examples)
            home.edit(examples={"of": "ones of a kind", "images": examples})
        home.night(is_full=night % 4 == 0)
        if night == 18:  # what is pinned is what the cluster holds when that is first applied
            pinned = list(next(edit.images for edit in home.edits if edit.kind == "pin"))
            assert set(pinned) == set(home.of_class(3))
            kept |= set(pinned)

        ids, names = home.ids(), home.names()
        assert len(set(names.values())) == len(names)
        assert {row["state"] for row in read_outcomes(home.current.stage("assign_clusters"))} <= {"applied"}
        if night >= 3:
            assert only(ids, home.of_class(4) + home.of_class(5)) == expected["merged"]
            assert names[expected["merged"]] == "one thing"
        if night >= 8:
            halves = [only(ids, home.of_class(0, half)) for half in "ab"]
            assert expected.setdefault("a", halves[0]) == halves[0]
            assert expected.setdefault("b", halves[1]) == halves[1]
            assert halves[0] != halves[1]
        if night >= 13:
            twos = only(ids, home.of_class(2))
            assert ids[stray] == twos
            assert names[twos] == "twos & <i>one</i>"
        if night >= 18:
            assert pinned is not None
            assert sorted(image for image, found in ids.items() if found == expected["pinned"]) == sorted(pinned)
            assert hidden_clusters(home.current.stage("assign_clusters")) == {expected["pinned"]}
        if night >= 23:
            found = only(ids, examples)
            assert names[found] == "ones of a kind"
            assert expected.setdefault("kind", found) == found

    assert is_edited(home.current.stage("assign_clusters").require_manifest())
    home.edits = ()
    home.night(is_full=False)
    assert not is_edited(home.current.stage("assign_clusters").require_manifest())
    ids = home.ids()
    assert (
        len({only(ids, [i for i in home.of_class(label) if i != stray]) for label in range(NUM_CLASSES)}) == NUM_CLASSES
    )
    assert "one thing" not in home.names().values()


def test_images_of_a_split_keep_their_part_whatever_becomes_of_its_examples(tmp_path: Path) -> None:
    """Of a cluster without a gap, whose examples leave one after the other until others stand in for them."""
    home = Home(tmp_path)
    home.arrive(600)
    home.night(is_full=True)
    home.edit(split={"cluster": home.reference(only(home.ids(), home.of_class(2))), "into": 2})
    home.night(is_full=False)
    drawn = home.edits[0].action
    assert isinstance(drawn, Split)
    assert drawn.examples is not None
    for place in range(7):
        before = home.ids()
        for part in drawn.examples:
            del home.images[part[place]]
        home.arrive(10)
        home.night(is_full=False)
        now = home.ids()
        assert {image: now[image] for image in before if image in now} == {
            image: cluster for image, cluster in before.items() if image in now
        }
    assert home.edits[0].action != drawn


def test_names_that_are_taken_back_after_a_full_clustering_leave_nothing_behind(tmp_path: Path) -> None:
    """The clustering has joined by then what a person had merged, so that the edits change nothing but names."""
    home = Home(tmp_path)
    home.arrive(300)
    home.night(is_full=True)
    own = home.names()
    first, second = (only(home.ids(), home.of_class(label)) for label in (2, 3))
    home.edit(merge={"clusters": [home.reference(first), {"id": second, "images": home.of_class(2)[:3]}]})
    home.edit(rename={"cluster": home.reference(first), "name": "things"})
    for is_full in (False, True, False):
        home.night(is_full=is_full)
        assert home.names()[first] == "things"
    assert not is_edited(home.current.stage("assign_clusters").require_manifest())
    home.edits = ()
    for is_full in (False, False, True):
        home.night(is_full=is_full)
        assert home.names() == own


def test_measures_are_those_of_the_images_that_a_cluster_has_now(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.arrive(200)
    home.night(is_full=True)
    ids = home.ids()
    first, second = only(ids, home.of_class(1)), only(ids, home.of_class(2))
    home.edit(move={"images": home.of_class(1)[:5], "to": home.reference(second)})
    home.night(is_full=False)
    assigned = home.current.stage("assign_clusters")
    centers = {row["cluster_id"]: row for row in assigned.read_table(CENTERS).to_pylist()}
    table = assigned.read_table(ASSIGNMENTS)
    for cluster_id in (first, second):
        own = [row for row in table.to_pylist() if row["cluster_id"] == cluster_id]
        rows = np.stack([home.images[row["image_id"]] for row in own]).astype(np.float16).astype(np.float32)
        center = rows.sum(axis=0) / np.linalg.norm(rows.sum(axis=0))
        assert centers[cluster_id]["embedding"] == pytest.approx(center.tolist(), abs=1e-4)
        distances = 1 - rows @ center
        assert centers[cluster_id]["mean_distance"] == pytest.approx(distances.mean(), abs=1e-3)
        scores = [row["outlier_score"] for row in own]
        assert scores == pytest.approx((distances / distances.mean()).tolist(), rel=0.05, abs=0.05)
    clusters = {row["cluster_id"]: row for row in assigned.read_table(CLUSTERS).to_pylist()}
    assert sum(row["size"] for row in clusters.values()) == 200
    moved = [row for row in table.to_pylist() if row["image_id"] in home.of_class(1)[:5]]
    assert {(row["cluster_id"], row["confidence"], row["runner_up"]) for row in moved} == {(second, 1.0, first)}
