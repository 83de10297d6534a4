"""The table of questions of a finished run, and what the report makes of it."""

import pyarrow as pa

from dxmc_core.artifacts.tables import QUESTIONS
from dxmc_core.edits.file import append_edits, new_edit, read_edits
from dxmc_core.edits.model import Apart, Together
from dxmc_core.stages.questions import find_questions, report_questions


def rows_of(run, **options) -> list[dict]:
    table = find_questions(run.run_dir, **{"max_questions": 100, "seed": 0, **options})
    assert table.schema == QUESTIONS.schema()
    rows = table.to_pylist()
    assert [row["rank"] for row in rows] == list(range(len(rows)))
    return rows


def test_questions_name_images_and_clusters_of_the_run(make_color_run):
    run = make_color_run(clusters=(0,) * 6 + (1,) * 6)
    rows = rows_of(run)
    assert {row["kind"] for row in rows} >= {"merge", "split", "move"}
    for row in rows:
        assert row["cluster_id"] in (0, 1)
        assert set(row["rows"]) <= set(range(12))
        if row["kind"] == "move":
            assert [run.image_ids[place] for place in row["rows"]] == row["image_ids"][:6]
    table = pa.Table.from_pylist(rows, schema=QUESTIONS.schema())
    assert [question.kind for question in report_questions(table, {0, 1})] == [row["kind"] for row in rows]
    assert {question.cluster_id for question in report_questions(table, {1})} == {1}
    assert {question.other_id for question in report_questions(table, {1})} == {None}


def test_what_a_person_has_said_is_not_asked_again(make_color_run):
    run = make_color_run(clusters=(0,) * 6 + (1,) * 6)
    assert any(row["kind"] == "merge" for row in rows_of(run))
    said = [Apart(images=[run.image_ids[0], run.image_ids[11]]), Together(images=["gone.png", run.image_ids[3]])]
    with run.run_dir.locked():
        append_edits(read_edits(run.run_dir), [new_edit(action, author="ann") for action in said])
    assert not any(row["kind"] == "merge" for row in rows_of(run))


def test_no_more_than_asked_for(make_color_run):
    run = make_color_run(clusters=(0,) * 6 + (1,) * 6)
    assert len(rows_of(run, max_questions=2)) == 2
    assert rows_of(run, max_questions=0) == []


def test_a_single_cluster_has_no_questions(make_color_run):
    assert rows_of(make_color_run(clusters=(0,) * 12)) == []
