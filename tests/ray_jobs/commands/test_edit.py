"""`dxmc edit` on a finished run: every correction is a new generation, made without Ray, and can be taken back."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dxmc_core.artifacts.generations import Generations, open_run_dir
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import ASSIGNMENTS, CENTERS, CLUSTER_TREE, CLUSTERS, EDITS, LINEAGE
from dxmc_core.edits.file import format_edits, read_edits
from dxmc_core.errors import InputError
from ray_jobs import cli

_FINGERPRINT = "d" * 32


@pytest.fixture
def run(make_color_run, publish_rest) -> RunDir:
    """Twelve pictures in the clusters red, green and blue, with all that a finished run has."""
    run_dir = make_color_run().run_dir
    publish_rest(run_dir)
    return run_dir


def dxmc(*arguments: object) -> None:
    parsed = cli.make_parser().parse_args([str(argument) for argument in arguments])
    parsed.command.execute(parsed)


def edit(run_dir: RunDir, *arguments: object) -> None:
    dxmc("edit", run_dir.uri, *arguments)


def members(run_dir: RunDir) -> dict[int, str]:
    """Images of every cluster of the current generation: the first letters of their colours and their numbers."""
    table = open_run_dir(run_dir.uri).stage("assign_clusters").read_table(ASSIGNMENTS)
    found: dict[int, list[str]] = {}
    for image_id, cluster_id in zip(table["image_id"].to_pylist(), table["cluster_id"].to_pylist(), strict=True):
        found.setdefault(cluster_id, []).append(image_id[0] + image_id.split("/")[1][0])
    return {cluster_id: " ".join(images) for cluster_id, images in sorted(found.items())}


def names(run_dir: RunDir) -> dict[int, str]:
    rows = open_run_dir(run_dir.uri).stage("assign_clusters").read_table(CLUSTERS)
    return dict(zip(rows["cluster_id"].to_pylist(), rows["name"].to_pylist(), strict=True))


RED, GREEN, BLUE = "r0 r1 r2 r3", "g0 g1 g2 g3", "b0 b1 b2 b3"
AS_IT_WAS = {0: RED, 1: GREEN, 2: BLUE}


def test_a_merge_is_in_every_table_and_undo_restores_them(run: RunDir, capsys: pytest.CaptureFixture) -> None:
    before = {table: run.stage("assign_clusters").read_table(table) for table in (ASSIGNMENTS, CENTERS)}
    edit(run, "merge", 1, 0, "--name", "fruit", "--reason", "both are fruit", "--author", "ann")
    assert "generation 1" in capsys.readouterr().out
    assert members(run) == {1: f"{RED} {GREEN}", 2: BLUE}
    assert names(run) == {1: "fruit", 2: "blue"}
    made = open_run_dir(run.uri)
    assigned = made.stage("assign_clusters")
    assert [row["size"] for row in assigned.read_table(CLUSTERS).to_pylist()] == [8, 4]
    leaves = [row["cluster_id"] for row in assigned.read_table(CLUSTER_TREE).to_pylist()]
    assert leaves == [1, 2, None]
    lineage = {
        (row["relation"], row["previous_id"], row["cluster_id"]) for row in assigned.read_table(LINEAGE).to_pylist()
    }
    assert lineage == {("kept", 1, 1), ("kept", 2, 2), ("merged", 0, 1)}
    assert "fruit" in made.stage("write_report").read_file("index.html").decode()
    assert Generations(run).record(1).reason.startswith("merge 1 0 as 'fruit', by ann")  # type: ignore[union-attr]
    edit(run, "undo", "--json")
    (undone,) = json.loads(capsys.readouterr().out)["undone"]
    assert undone["reason"] == "both are fruit"
    assert members(run) == AS_IT_WAS
    assert names(run) == {0: "red", 1: "green", 2: "blue"}
    after = open_run_dir(run.uri).stage("assign_clusters")
    for table, rows in before.items():
        assert after.read_table(table).equals(rows)


def test_a_name_that_is_taken_back_leaves_nothing_behind(run: RunDir) -> None:
    """Where no image has moved, too: nothing but the name was ever changed, or the clusters were one already."""
    before = names(run)
    edit(run, "rename", 0, "embers")
    edit(run, "hide", 1)
    assert names(run) == {**before, 0: "embers"}
    edit(run, "undo")
    edit(run, "undo")
    assert names(run) == before


def test_every_kind_holds_at_once(run: RunDir) -> None:
    edit(run, "move", "red/0.png", "--to", 2)
    assert members(run) == {0: "r1 r2 r3", 1: GREEN, 2: f"r0 {BLUE}"}
    edit(run, "examples", "lime", "green/0.png", "green/1.png")
    assert members(run)[4] == "g0 g1"
    assert names(run)[4] == "lime"
    edit(run, "apart", "blue/0.png", "blue/1.png")
    edit(run, "together", "blue/2.png", "blue/3.png")
    edit(run, "split", 0, "--like", "red/1.png", "--like", "red/3.png")
    edit(run, "rename", 1, "<script>alert(1)</script>")
    edit(run, "hide", 2)
    edit(run, "pin", 1)
    found = members(run)
    assert found[4] == "g0 g1"
    assert (
        len({cluster_id for cluster_id, images in found.items() for image in images.split() if image in ("r1", "r3")})
        == 2
    )
    page = open_run_dir(run.uri).stage("write_report").read_file("index.html").decode()
    assert "<script>alert(1)" not in page
    rows = open_run_dir(run.uri).stage("assign_clusters").read_table(EDITS).to_pylist()
    assert {row["state"] for row in rows} == {"applied"}
    assert [row["kind"] for row in rows] == ["move", "examples", "apart", "together", "split", "rename", "hide", "pin"]


def test_a_split_by_number_is_written_down_as_examples(run: RunDir) -> None:
    edit(run, "split", 0, "--into", 2)
    (found,) = read_edits(run).edits
    assert found.action.examples is not None  # type: ignore[union-attr]
    first = members(run)
    edit(run, "apply")
    assert members(run) == first
    assert len(first) == 4


def test_the_list_says_what_has_become_of_each(run: RunDir, capsys: pytest.CaptureFixture) -> None:
    edit(run, "move", "red/0.png", "--to", 2, "--author", "ann", "--reason", "it is dark")
    capsys.readouterr()
    edit(run, "list")
    out = capsys.readouterr().out
    assert "ann: move 1 image to 2  [applied]  1 of 1 is in another cluster by the data alone" in out
    assert "it is dark" in out
    edit(run, "list", "--json")
    assert json.loads(capsys.readouterr().out)[0]["state"] == "applied"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["merge", 0, 7], "has no cluster 7; dxmc clusters shows"),
        (["merge", 0], "at least 2 items"),
        (["merge", 0, 0], "found one twice"),
        (["rename", 0, "a\nb"], "printable characters"),
        (["split", 0], "either `into` or `examples`"),
        (["split", 0, "--into", 1], "greater than or equal to 2"),
        (["move", "red/9.png", "--to", 1], "has no image 'red/9.png'"),
        (["together", "red/0.png"], "at least 2 items"),
        (["undo"], "has no edits to undo"),
        (["undo", "12345678"], "has no edits to undo"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_changes_nothing(run: RunDir, arguments: list, told: str) -> None:
    with pytest.raises(InputError, match=told):
        edit(run, *arguments)
    assert Generations(run).pointer() is None
    assert not Path(run.uri, "edits.yaml").exists()
    assert members(run) == AS_IT_WAS


def test_contradictions_are_refused_with_both_edits(run: RunDir) -> None:
    edit(run, "together", "red/0.png", "red/1.png")
    with pytest.raises(InputError, match=r"edits\.yaml: edit 2 \(\w+\): apart: 'red/0.png' and 'red/1.png' belong"):
        edit(run, "apart", "red/0.png", "red/1.png")
    assert len(read_edits(run).edits) == 1


def test_the_file_of_another_run_changes_nothing(run: RunDir, tmp_path: Path) -> None:
    reference = {"id": 0, "images": ["theirs/0.png"]}
    rows = [
        {"author": "eve", "at": "2026-11-30T12:00:00Z", "rename": {"cluster": reference, "name": "mine"}},
        {"author": "eve", "at": "2026-11-30T12:00:00Z", "together": {"images": ["theirs/0.png", "theirs/1.png"]}},
    ]
    file = tmp_path / "theirs.yaml"
    file.write_text(yaml.safe_dump({"version": 1, "edits": rows}))
    with pytest.raises(InputError) as caught:
        edit(run, "apply", file)
    first, second = str(caught.value).splitlines()
    assert "edit 1" in first
    assert "has no cluster 0, nor any image of it" in first
    assert "has no image 'theirs/0.png' (and 1 more)" in second
    assert members(run) == AS_IT_WAS


def test_a_file_that_a_page_has_given_is_taken_in_once(run: RunDir, tmp_path: Path) -> None:
    edit(run, "hide", 2)
    edit(run, "merge", 0, 1)
    given = tmp_path / "page.yaml"
    given.write_bytes(format_edits(read_edits(run).edits))
    edit(run, "undo")
    edit(run, "apply", given)
    edit(run, "apply", given)
    assert [found.kind for found in read_edits(run).edits] == ["hide", "merge"]
    assert members(run) == {0: f"{RED} {GREEN}", 2: BLUE}


def test_edits_written_by_hand_count_from_the_next_time_on(run: RunDir) -> None:
    Path(run.uri, "edits.yaml").write_text(
        "version: 1\nedits:\n  - {author: ann, at: 2026-11-30T12:00:00Z, merge: {clusters: [0, 1]}}\n"
    )
    edit(run, "apply")
    assert members(run) == {0: f"{RED} {GREEN}", 2: BLUE}
    (found,) = read_edits(run).edits
    assert [ref.images[:1] for ref in found.clusters] == [("red/0.png",), ("green/0.png",)]


def test_the_way_back_leaves_the_edits_for_the_next_time(run: RunDir) -> None:
    edit(run, "merge", 0, 1)
    edit(run, "rename", 0, "warm")
    dxmc("rollback", run.uri, "--to", 1)
    assert names(run)[0] == "red"
    edit(run, "apply")
    assert names(run)[0] == "warm"
    assert members(run) == {0: f"{RED} {GREEN}", 2: BLUE}


def test_embeddings_without_files_can_be_edited_too(make_color_run: Callable, publish_rest: Callable) -> None:
    run_dir = make_color_run(files=False).run_dir
    publish_rest(run_dir)
    edit(run_dir, "merge", 0, 1)
    assert members(run_dir) == {0: f"{RED} {GREEN}", 2: BLUE}
