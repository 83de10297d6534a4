"""`dxmc edit`: corrections by a person, applied at once and by every later night."""

import argparse
import getpass
import json
from typing import TYPE_CHECKING, Any

from dxmc_core.errors import InputError
from ray_jobs.arguments import whole_number

if TYPE_CHECKING:
    from dxmc_core.artifacts.run_dir import RunDir
    from dxmc_core.edits.file import EditsFile
    from dxmc_core.edits.model import Action, ClusterRef, Edit

NAME = "edit"
SUMMARY = "Correct the clusters of a run: applied at once as a new generation, and by every later night."
EXAMPLES = """\
dxmc edit runs/demo merge 3 7
dxmc edit runs/demo rename 4 "staff at work"
dxmc edit runs/demo split 5 --into 3
dxmc edit runs/demo move photos/a.jpg photos/b.jpg --to 8
dxmc edit runs/demo examples "red cars" photos/c.jpg      these images are of this class, which may be new
dxmc edit runs/demo apply edits.yaml                      what the report's page has given
dxmc edit runs/demo list
dxmc edit runs/demo undo                                  the last one, or the one whose id is given"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, text: str, *, is_signed: bool = True) -> argparse.ArgumentParser:
        found = actions.add_parser(name, help=text, description=text)
        found.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        found.add_argument("--quiet", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if is_signed:
            found.add_argument("--author", metavar="NAME", help="by default the name of this account")
            found.add_argument("--reason", metavar="TEXT", help="why, for whoever reads it later")
        return found

    def cluster(found: argparse.ArgumentParser, *names: str, **options: Any) -> None:
        found.add_argument(*(names or ("cluster",)), type=whole_number, metavar="CLUSTER", **options)

    def images(found: argparse.ArgumentParser) -> None:
        found.add_argument("images", nargs="+", metavar="IMAGE", help="image_id, as tables and the report show it")

    found = action("merge", "make one cluster of several; it has the number of the first")
    cluster(found, "clusters", nargs="+")
    found.add_argument("--name", metavar="NAME", help="what it is called")
    found = action("rename", "give a cluster a name")
    cluster(found)
    found.add_argument("name", metavar="NAME")
    found = action("split", "cut a cluster into several; the largest, or the first --like, keeps its number")
    cluster(found)
    found.add_argument("--into", type=whole_number, metavar="N", help="so many, by what their images look like")
    found.add_argument(
        "--like", nargs="+", action="append", metavar="IMAGE", help="a few images of one part; once for each part"
    )
    found = action("move", "put images into a cluster")
    images(found)
    cluster(found, "--to", required=True)
    images(action("together", "these images belong into one cluster, whichever it is"))
    images(action("apart", "no two of these images belong into one cluster"))
    found = action("examples", "these images are of a class; a new name makes a new cluster")
    found.add_argument("of", metavar="CLASS", help="its name, or the number of a cluster")
    images(found)
    cluster(action("hide", "leave a cluster out of the report"))
    cluster(action("pin", "keep a cluster as it is: its images change by edits alone"))
    found = action("undo", "take an edit back", is_signed=False)
    found.add_argument("edit", nargs="?", metavar="ID", help="of the edit; by default the last one")
    action("list", "show all edits, and what has become of each", is_signed=False)
    found = action("apply", "apply what edits.yaml holds, or add the edits of another file", is_signed=False)
    found.add_argument("file", nargs="?", metavar="FILE", help="such as the one that the report's page gives")


def execute(arguments: argparse.Namespace) -> None:
    if arguments.action == "list":
        _list(arguments)
        return
    from ray_jobs.edit_run import edit_run

    undone: list[Edit] = []
    added: list[Edit] = []

    def change(found: "EditsFile", base: "RunDir") -> "EditsFile":
        from dxmc_core.edits.file import undo_edit
        from ray_jobs.edit_run import add_edits

        if arguments.action == "undo":
            left, edit = undo_edit(found, arguments.edit)
            undone.append(edit)
            return left
        added.extend(_edits_of(arguments, found, base))
        if arguments.action == "apply" and arguments.file is None:
            return found
        return add_edits(found, base, added)

    def reason() -> str | None:
        return f"undo of {undone[0].summary()}" if undone else None

    applied = edit_run(arguments.run_dir, change, reason=reason)
    shown = {edit.id for edit in added}
    rows = [row for row in applied.rows if row["edit_id"] in shown]
    if arguments.json:
        result = {
            "run_dir": applied.run_dir.uri,
            "generation": applied.generation,
            "undone": [edit.model_dump() for edit in undone],
            "edits": [_plain(row) for row in rows],
        }
        print(json.dumps(result, indent=1))
        return
    for edit in undone:
        print(f"undone: {edit.id}  {edit.summary()}")
    _print_rows(rows)
    print(f"\ngeneration {applied.generation}: {applied.run_dir.uri}")
    print(f"report:  {applied.run_dir.stage('write_report').storage.uri}/index.html")


def _edits_of(arguments: argparse.Namespace, found: "EditsFile", base: "RunDir") -> "list[Edit]":
    from dxmc_core.artifacts.storage import read_user_file
    from dxmc_core.edits.file import new_edit, parse_edits

    if arguments.action == "apply":
        if arguments.file is None:
            return list(found.edits)
        given = parse_edits(read_user_file(arguments.file), arguments.file)
        known = {edit.id for edit in found.edits}
        return [edit for edit in given if edit.id not in known]
    author = arguments.author or getpass.getuser()
    return [new_edit(_action_of(arguments, base), author=author, reason=arguments.reason)]


def _action_of(arguments: argparse.Namespace, base: "RunDir") -> "Action":
    """The action that was typed, with references to clusters of the run."""
    from pydantic import ValidationError

    from dxmc_core.edits.file import told
    from dxmc_core.edits.model import Apart, Examples, Hide, Merge, Move, Pin, Rename, Split, Together

    def of(cluster_id: int) -> "ClusterRef":
        return _reference(base, cluster_id)

    try:
        match arguments.action:
            case "merge":
                return Merge(clusters=tuple(map(of, arguments.clusters)), name=arguments.name)
            case "rename":
                return Rename(cluster=of(arguments.cluster), name=arguments.name)
            case "split":
                return Split(cluster=of(arguments.cluster), into=arguments.into, examples=arguments.like)
            case "move":
                return Move(images=arguments.images, to=of(arguments.to))
            case "together":
                return Together(images=arguments.images)
            case "apart":
                return Apart(images=arguments.images)
            case "examples":
                text = arguments.of.strip()
                return Examples(of=of(int(text)) if text.isdecimal() else text, images=arguments.images)
            case "hide":
                return Hide(cluster=of(arguments.cluster))
            case _:
                return Pin(cluster=of(arguments.cluster))
    except ValidationError as error:
        raise InputError(f"{arguments.action}: {'; '.join(told(error))}") from error


def _reference(base: "RunDir", cluster_id: int) -> "ClusterRef":
    from dxmc_core.edits.references import references_to

    found = references_to(base, [cluster_id])
    if cluster_id not in found:
        raise InputError(f"{base.uri} has no cluster {cluster_id}; dxmc clusters shows those there are")
    return found[cluster_id]


def _list(arguments: argparse.Namespace) -> None:
    from dxmc_core.artifacts.generations import open_run_dir
    from dxmc_core.artifacts.run_dir import RunDir
    from dxmc_core.edits.file import read_edits
    from dxmc_core.edits.references import read_outcomes

    found = read_edits(RunDir.at(arguments.run_dir))
    known = {row["edit_id"]: row for row in read_outcomes(open_run_dir(arguments.run_dir).stage("assign_clusters"))}
    rows = [
        known.get(edit.id)
        or {
            "edit_id": edit.id,
            "summary": edit.summary(),
            "author": edit.author,
            "at": edit.at,
            "reason": edit.reason,
            "state": "new",
            "message": "not applied yet; dxmc edit RUN_DIR apply does it",
        }
        for edit in found.edits
    ]
    if arguments.json:
        print(json.dumps([_plain(row) for row in rows], indent=1))
        return
    _print_rows(rows)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "at": row["at"].isoformat()}


def _print_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        text = f"{row['edit_id']}  {row['at']:%Y-%m-%d}  {row['author']}: {row['summary']}  [{row['state']}]"
        print(text + (f"  {row['message']}" if row["message"] else ""))
        if row["reason"]:
            print(f"          {row['reason']}")
