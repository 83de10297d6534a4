"""`dxmc search`: clusters and images of a run that are nearest to words or to an image."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from dxmc_core.errors import InputError

if TYPE_CHECKING:
    from dxmc_core.artifacts.run_dir import RunDir
    from dxmc_core.search import SearchResult

NAME = "search"
SUMMARY = "Find the clusters and images nearest to words or to an image."
EXAMPLES = """\
dxmc search runs/demo coffee
dxmc search runs/laptop "a dog on the beach" --top 20 --html dogs.html
dxmc search runs/laptop ~/Pictures/party.jpg                        an image file
dxmc search runs/laptop 2024/party.jpg --as image_id                an image of the run
dxmc search runs/mine vectors.npy#17 --json                         row 17 of a file of embeddings"""
_MAX_TOP = 1000
_KINDS = ("words", "image", "image_id", "embedding")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("query", metavar="QUERY", nargs="+", help="words, an image file, an image_id, or FILE.npy#ROW")
    parser.add_argument(
        "--as",
        dest="kind",
        choices=_KINDS,
        help="what to take the query for; by default a file where there is one, a noun of the run, an image_id, words",
    )
    parser.add_argument("--top", metavar="N", type=int, default=10, help="how many of each to show (default 10)")
    parser.add_argument("--html", metavar="FILE", help="write a page with thumbnails")


def execute(arguments: argparse.Namespace) -> None:
    from dxmc_core.artifacts.generations import open_run_dir
    from dxmc_core.artifacts.storage import write_output
    from dxmc_core.config import read_run_config
    from dxmc_core.report.page import PAGE_MARK
    from dxmc_core.search import QueryKind, search_run
    from dxmc_core.search_page import render_search

    if not 1 <= arguments.top <= _MAX_TOP:
        raise InputError(f"--top is {arguments.top}; expected 1 to {_MAX_TOP}")
    run_dir = open_run_dir(arguments.run_dir)
    config = read_run_config(run_dir)
    kind = QueryKind(arguments.kind) if arguments.kind else None
    result = search_run(run_dir, config, " ".join(arguments.query), kind=kind, top=arguments.top)
    page = None
    if arguments.html is not None:
        page = write_output(arguments.html, render_search(run_dir, config, result).encode(), mark=PAGE_MARK)
    if arguments.json:
        print(json.dumps(_as_json(result, run_dir, page), indent=1))
    else:
        _print(result, page)


def _as_json(result: "SearchResult", run_dir: "RunDir", page: str | None) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "run_dir": run_dir.uri,
        "query": result.query.text,
        "query_kind": result.query.kind,
        "clusters": [asdict(hit) for hit in result.clusters],
        "images": [asdict(hit) for hit in result.images],
        "html": page,
    }


def _print(result: "SearchResult", page: str | None) -> None:
    print("clusters")
    for cluster in result.clusters:
        print(f"  {cluster.similarity:6.3f}  {cluster.cluster_id:>6}  {cluster.name:<28} {cluster.size:>9} images")
    print("images")
    for image in result.images:
        print(f"  {image.similarity:6.3f}  {image.image_id:<44} {image.cluster_id:>6}  {image.cluster}")
    if page is not None:
        print(f"\npage:  {page}")
