"""docs/ARTIFACTS.md says what the tables are declared to be, and the lines it shows for other tools read a run."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "document_artifacts.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("document_artifacts", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "document_artifacts", module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module


def test_the_page_is_up_to_date(script):
    assert script.PAGE.read_text(encoding="utf-8") == script.document(), "run python scripts/document_artifacts.py"


@pytest.mark.parametrize("tool", ["pandas", "Polars", "DuckDB"])
def test_other_tools_open_the_assignments_by_these_lines(script, tool, make_color_run, tmp_path, monkeypatch):
    run = make_color_run(files=False, uri=str(tmp_path / "runs/demo"), clusters=(0,) * 3 + (1,) * 5 + (2,) * 4)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(script.ONE_LINERS[tool], names)
    assignments, sizes = names["assignments"], names["sizes"]
    if tool == "pandas":
        ids, by_name = assignments["image_id"].tolist(), sizes.to_dict()
    elif tool == "Polars":
        ids, by_name = assignments.collect()["image_id"].to_list(), dict(sizes.rows())
    else:
        ids, by_name = [row[0] for row in assignments.select("image_id").fetchall()], dict(sizes.fetchall())
    assert sorted(ids) == sorted(run.image_ids)
    assert by_name == {"red": 3, "green": 5, "blue": 4}


@pytest.mark.parametrize("tool", ["pandas", "Polars", "DuckDB"])
def test_other_tools_read_embeddings(tool, make_color_run, tmp_path):
    """Half precision in lists of a fixed length is the least common type of all columns."""
    run = make_color_run(files=False)
    pattern = f"{tmp_path}/run/embed_images/images/*.parquet"
    if tool == "pandas":
        import pandas as pd

        frame = pd.read_parquet(f"{tmp_path}/run/embed_images/images").sort_values("row_id")
        rows = [list(row) for row in frame["embedding"]]
    elif tool == "Polars":
        import polars as pl

        rows = pl.read_parquet(pattern).sort("row_id")["embedding"].to_list()
    else:
        import duckdb

        rows = [row[0] for row in duckdb.sql(f"SELECT embedding FROM '{pattern}' ORDER BY row_id").fetchall()]
    np.testing.assert_allclose(rows, run.embeddings, atol=1e-3)
