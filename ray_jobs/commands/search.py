"""`dxmc search`: clusters and images of a run that are nearest to words or to an image."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dxmc_core.errors import InputError
from dxmc_core.search.kind import QueryKind

if TYPE_CHECKING:
    from dxmc_core.search.run_search import RunSearch, SearchResult

NAME = "search"
SUMMARY = "Find the clusters and images nearest to words or to an image."
EXAMPLES = """\
dxmc search runs/demo coffee
dxmc search runs/laptop "a dog on the beach" --top 20 --html dogs.html
dxmc search runs/laptop dog --where cluster=beach --where "size>=100000"    conditions on any column of the catalog
dxmc search runs/laptop ~/Pictures/party.jpg                        an image file
dxmc search runs/laptop 2024/party.jpg --as image_id                an image of the run
dxmc search runs/mine vectors.npy#17 --json                         row 17 of a file of embeddings
dxmc search runs/mine --queries vectors.npy --json                  all of its rows, or the lines of a text file
dxmc search runs/laptop --interactive                               one query after the other, a line each"""
_MAX_TOP = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("query", metavar="QUERY", nargs="*", help="words, an image file, an image_id, or FILE.npy#ROW")
    parser.add_argument(
        "--as",
        dest="kind",
        choices=[str(kind) for kind in QueryKind],
        help="what to take the query for; by default a file where there is one, a noun of the run, an image_id, words",
    )
    parser.add_argument("--top", metavar="N", type=int, default=10, help="how many of each to show (default 10)")
    parser.add_argument(
        "--where",
        metavar="CONDITION",
        action="append",
        default=[],
        help="look among images with, such as, label=dog or size>=100000 only; cluster=NAME too; may be repeated",
    )
    parser.add_argument("--queries", metavar="FILE", help="search for every line of a text file, or row of a .npy file")
    parser.add_argument("--interactive", action="store_true", help="search for every line of the standard input")
    parser.add_argument("--html", metavar="FILE", help="write a page with thumbnails")


def execute(arguments: argparse.Namespace) -> None:
    if not 1 <= arguments.top <= _MAX_TOP:
        raise InputError(f"--top is {arguments.top}; expected 1 to {_MAX_TOP}")
    if bool(arguments.query) + bool(arguments.queries) + arguments.interactive != 1:
        raise InputError("expected one of: a QUERY, --queries FILE, --interactive")
    if arguments.html is not None and not arguments.query:
        raise InputError("--html shows one search; give it with a QUERY")
    from dxmc_core.search.run_search import open_run  # late, as the parser of every command needs this module
    from ray_jobs.progress import waiting_for_a_person

    options = {
        "kind": QueryKind(arguments.kind) if arguments.kind else None,
        "top": arguments.top,
        "where": arguments.where,
    }
    with open_run(arguments.run_dir) as run:
        if arguments.interactive:
            with waiting_for_a_person():
                _answer_lines(run, options, as_json=arguments.json)
        elif arguments.queries:
            _answer_file(run, arguments.queries, options, as_json=arguments.json)
        else:
            result = run.query(" ".join(arguments.query), **options)
            page = None
            if arguments.html is not None:
                page = _write_page(arguments.html, run, result)
            if arguments.json:
                print(json.dumps({**_as_json(result, run), "html": page}, indent=1))
            else:
                _print(result, page)


def _write_page(uri: str, run: "RunSearch", result: "SearchResult") -> str:
    """Write the result with thumbnails; where it lies."""
    from dxmc_core.artifacts.storage import write_output
    from dxmc_core.report.page import PAGE_MARK
    from dxmc_core.search.page import render_search

    return write_output(uri, render_search(run.run_dir, run.config, result).encode(), mark=PAGE_MARK)


def _answer_lines(run: "RunSearch", options: dict[str, Any], *, as_json: bool) -> None:
    """Answer one line after the other, with JSON on one line each where that is asked for; an error ends nothing."""
    for line in _lines():
        try:
            result = run.query(line, **options)
        except InputError as error:
            print(json.dumps({"query": line, "error": str(error)}) if as_json else f"error: {error}", flush=True)
            continue
        if as_json:
            print(json.dumps(_as_json(result, run)), flush=True)
        else:
            _print(result)
            print(flush=True)


def _lines() -> Iterator[str]:
    """What is typed, or piped, until it ends."""
    is_typed = sys.stdin.isatty()
    while True:
        if is_typed:
            print("search: ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _answer_file(run: "RunSearch", path: str, options: dict[str, Any], *, as_json: bool) -> None:
    results = run.query_all(_queries_of(path), **options)
    if as_json:
        print(json.dumps([_as_json(result, run) for result in results], indent=1))
        return
    for result in results:
        print(f"query: {result.query.text}")
        _print(result)
        print()


def _queries_of(path: str) -> list[str]:
    """The lines of a text file that are not empty, or a query for each row of a .npy file."""
    if Path(path).suffix == ".npy":
        from dxmc_core.search.queries import load_embeddings

        values = load_embeddings(path)
        return [f"{path}#{row}" for row in range(len(values))] if values.ndim == 2 else [path]
    from dxmc_core.artifacts.storage import read_user_file

    try:
        lines = read_user_file(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is no text in UTF-8: {error}; expected a query on each line, or a .npy file"
        ) from error
    queries = [line.strip() for line in lines if line.strip()]
    if not queries:
        raise InputError(f"{path} has no queries; expected one on each line")
    return queries


def _as_json(result: "SearchResult", run: "RunSearch") -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "run_dir": run.run_dir.uri,
        "query": result.query.text,
        "query_kind": result.query.kind,
        "clusters": [asdict(hit) for hit in result.clusters],
        "images": [asdict(hit) for hit in result.images],
    }


def _print(result: "SearchResult", page: str | None = None) -> None:
    print("clusters")
    for cluster in result.clusters:
        print(f"  {cluster.similarity:6.3f}  {cluster.cluster_id:>6}  {cluster.name:<28} {cluster.size:>9} images")
    print("images")
    for image in result.images:
        print(f"  {image.similarity:6.3f}  {image.image_id:<44} {image.cluster_id:>6}  {image.cluster}")
    if page is not None:
        print(f"\npage:  {page}")
