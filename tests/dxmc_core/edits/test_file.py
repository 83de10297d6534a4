"""The file of edits: read, written, undone; and what of it is refused, with the place."""

import json
from pathlib import Path

import pytest

from dxmc_core.artifacts.generations import Generations
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.edits.file import EditsError, append_edits, format_edits, new_edit, parse_edits, read_edits, undo_edit
from dxmc_core.edits.model import Action, Apart, Examples, Hide, Merge, Move, Pin, Rename, Split, Together
from dxmc_core.errors import InputError

ACTIONS: list[Action] = [
    Rename.model_validate({"cluster": {"id": 3, "images": ["a.jpg", "007"]}, "name": "no"}),
    Merge.model_validate({"clusters": [3, 7], "name": "both: of them"}),
    Merge.model_validate({"clusters": [{"id": 1, "images": ["b"]}, 2, 4]}),
    Split.model_validate({"cluster": 5, "into": 3}),
    Split.model_validate({"cluster": 5, "examples": [["c"], ["d", "e"]]}),
    Move.model_validate({"images": ["1e3", "x: y", "ü.jpg"], "to": 8}),
    Together.model_validate({"images": ["f", "g"]}),
    Apart.model_validate({"images": ["h", "i"]}),
    Apart.model_validate({"groups": [["h2"], ["i2", "j2"]]}),
    Examples.model_validate({"of": "cats", "images": ["k"]}),
    Examples.model_validate({"of": {"id": 6, "images": ["m"]}, "images": ["l"]}),
    Hide.model_validate({"cluster": 9}),
    Pin.model_validate({"cluster": 9, "images": ["n", "o"]}),
]


def _yaml(*rows: str) -> bytes:
    head = "id: 0000000{}, author: ann, at: 2026-11-30T12:00:00Z, "
    lines = [f"  - {{{head.format(number) + row}}}" for number, row in enumerate(rows, start=1)]
    return "\n".join(["version: 1", "edits:", *lines]).encode()


def _refusal(data: bytes) -> str:
    with pytest.raises(EditsError) as caught:
        parse_edits(data, "edits.yaml")
    return str(caught.value)


@pytest.mark.parametrize("name", ["edits.yaml", "edits.parquet"])
def test_every_kind_of_edit_survives_a_file(name: str) -> None:
    edits = tuple(new_edit(action, author="ann", reason="<b>seen</b>") for action in ACTIONS)
    assert parse_edits(format_edits(edits, name), name) == edits


def test_the_page_may_give_json() -> None:
    edits = tuple(new_edit(action, author="ann") for action in ACTIONS)
    data = json.dumps({"version": 1, "edits": [edit.model_dump() for edit in edits]}, ensure_ascii=False)
    assert parse_edits(data.encode(), "body") == edits


def test_what_a_person_writes_by_hand() -> None:
    data = b"""
version: 1
edits:
  - {author: ann, at: 2026-11-30T12:00:00, rename: {cluster: 3, name: no}}
  - author: bob
    at: 2026-12-01T13:00:00+01:00
    examples: {of: 12, images: [007, 1e3, 'a: b']}
"""
    rename, examples = parse_edits(data, "edits.yaml")
    assert rename.summary() == "rename 3 'no'"
    assert rename.at == parse_edits(_yaml("hide: {cluster: 1}"), "")[0].at
    assert rename.id != examples.id
    assert rename == parse_edits(data, "edits.yaml")[0]  # the id is made from what the edit says
    assert examples.images == ("007", "1e3", "a: b")
    assert examples.clusters[0].id == 12


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("rename: {cluster: 3}", "edits.yaml: edit 1 (00000001): rename.name: Field required"),
        ("rename: {cluster: -1, name: x}", "rename.cluster.id: Input should be greater than or equal to 0, found '-1'"),
        ("rename: {cluster: 3, name: ' '}", "rename.name: expected a name of 1 to 200 printable characters"),
        ('rename: {cluster: 3, name: "a\\u0007b"}', "printable characters, found 'a\\x07b'"),
        ("rename: {cluster: 3, name: x}, hide: {cluster: 3}", "expected one action of rename, merge"),
        ("rename: 3", "rename: expected a mapping, found '3'"),
        ("renam: {cluster: 3, name: x}", "expected one of rename, merge, split"),
        ("merge: {clusters: [3]}", "merge.clusters: Tuple should have at least 2 items"),
        ("merge: {clusters: [3, 3]}", "expected different clusters, found one twice"),
        ("split: {cluster: 3}", "expected either `into` or `examples`"),
        ("split: {cluster: 3, into: 1}", "split.into: Input should be greater than or equal to 2, found '1'"),
        ("split: {cluster: 3, examples: [[a], [b, a]]}", "expected each image once, found 'a' twice"),
        ("together: {images: [a]}", "should have at least 2 items"),
        ("apart: {images: [a, a]}", "expected each image once, found 'a' twice"),
        ("pin: {cluster: {id: 3, images: [a], path: /etc}}", "pin.cluster.path: Extra inputs are not permitted"),
        ("move: {images: [a], to: {id: 3, images: [[b]]}}", "move.to.images.0: Input should be a valid string"),
    ],
)
def test_an_unusable_edit_is_told_with_its_place(row: str, told: str) -> None:
    refusal = _refusal(_yaml(row))
    assert told in refusal
    assert refusal.startswith("edits.yaml: edit 1 (00000001): ")
    assert "\n" not in refusal


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["together: {images: [a, b, c]}", "apart: {images: [c, a]}"], "edit 2 (00000002): apart: 'c' and 'a' belong"),
        (
            ["examples: {of: cat, images: [a, b]}", "examples: {of: Cat, images: [c]}", "apart: {images: [a, c]}"],
            "edit 3 (00000003): apart: 'a' and 'c' belong together",
        ),
        (
            ["examples: {of: cat, images: [a]}", "examples: {of: dog, images: [a, b]}"],
            "edit 2 (00000002): examples: 'a' is of 'dog' here, and of 'cat' by edit 1",
        ),
        (
            ["examples: {of: cat, images: [a]}", "together: {images: [a, b]}", "examples: {of: dog, images: [b]}"],
            "edit 3 (00000003): examples: 'b' is of 'dog' here, and of 'cat' by edit 1",
        ),
    ],
)
def test_contradictions_are_told_with_both_edits(rows: list[str], told: str) -> None:
    assert told in _refusal(_yaml(*rows))


def test_every_wrong_edit_has_a_line() -> None:
    refusal = _refusal(_yaml("rename: {cluster: 3}", "hide: {cluster: 3}", "hide: {cluster: x}"))
    assert [line.split(": ")[1] for line in refusal.splitlines()] == ["edit 1 (00000001)", "edit 3 (00000003)"]


def test_two_edits_of_one_id_are_refused() -> None:
    data = _yaml("hide: {cluster: 3}", "hide: {cluster: 4}").replace(b"00000002", b"00000001")
    assert "has the id 00000001 of edit 1" in _refusal(data)


@pytest.mark.parametrize(
    "data",
    [
        b"version: 2\nedits: []",
        b"edits: [",
        b"[1, 2]",
        b"version: 1\nedits: {a: b}",
        b"\xff\xfe",
        b"version: 1\nedits: []\nrun: rm",
        b"version: 1\nedits: [&a {author: ann, at: 2026-11-30T12:00:00Z, hide: {cluster: 1}}, *a]",
        b"a: &a [x, x]\nb: &b [*a, *a]\nversion: 1\nedits: [*b, *b]",
        b"version: 1\nedits: [!!python/object/apply:os.system [true]]",
        b"PAR1 and no more",
    ],
)
def test_what_is_no_file_of_edits_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match=r"edits\.yaml"):
        parse_edits(data, "edits.yaml")


def test_edits_are_appended_undone_and_kept_as_versions(tmp_path: Path) -> None:
    home = RunDir.at(str(tmp_path / "run"))
    first, second = (new_edit(action, author="ann") for action in ACTIONS[:2])
    found = append_edits(read_edits(home), [first])
    append_edits(found, [second])
    assert read_edits(home).edits == (first, second)
    with pytest.raises(InputError, match="written by somebody else"):
        append_edits(found, [second])
    left, undone = undo_edit(read_edits(home), first.id)
    assert (left.edits, undone) == ((second,), first)
    with pytest.raises(InputError, match="has no edit '12345678'"):
        undo_edit(left, "12345678")
    versions = sorted(path.name for path in (tmp_path / "run" / "edits").iterdir())
    assert versions == ["000001.yaml", "000002.yaml"]
    assert parse_edits((tmp_path / "run/edits/000002.yaml").read_bytes(), "") == (first, second)


def test_all_generations_listen_to_the_edits_of_their_home(tmp_path: Path) -> None:
    home = RunDir.at(str(tmp_path))
    append_edits(read_edits(home), [new_edit(ACTIONS[0], author="ann")])
    assert read_edits(Generations(home).run_dir(7)) == read_edits(home)


def test_a_run_may_begin_where_nothing_but_edits_lie(tmp_path: Path) -> None:
    home = RunDir.at(str(tmp_path))
    found = append_edits(read_edits(home), [new_edit(ACTIONS[0], author="ann")])
    append_edits(found, [new_edit(ACTIONS[1], author="ann")])
    home.require_empty()
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"mine\.txt"):
        home.require_empty()


def test_of_two_files_none_is_guessed(tmp_path: Path) -> None:
    for name in ("edits.yaml", "edits.parquet"):
        (tmp_path / name).write_bytes(format_edits([], name))
    with pytest.raises(InputError, match=r"both edits\.yaml and edits\.parquet"):
        read_edits(RunDir.at(str(tmp_path)))
