"""Writes docs/ARTIFACTS.md: the tables of a run directory as they are declared, and how other tools open them.

Run it after a change of `dxmc_core/artifacts/tables.py`; a test compares the page with what this would write.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from dxmc_core.artifacts.manifest import SCHEMA_VERSION
from dxmc_core.artifacts.run_dir import folder_of
from dxmc_core.artifacts.tables import NEIGHBORS, TABLES, Table

PAGE = Path(__file__).parents[1] / "docs" / "ARTIFACTS.md"

_HEAD = """\
# Artifacts

<!-- Written by scripts/document_artifacts.py; change that or dxmc_core/artifacts/tables.py, not this page. -->

A run directory has a folder for every stage, on local disk or in object storage. A table is a folder of Parquet parts,
`<stage>/<table>/*.parquet`. Of what dxmc writes, the folder of a finished stage holds the result and nothing else, so
any tool that reads Parquet reads exactly the result. `_manifest.json` in each stage folder, written last, names the
parts with their rows, bytes and checksums; a stage without it is not done. This is schema version {version}.

A run begins in a new or empty folder or prefix. Files that somebody else puts into it later are neither replaced nor
removed; a line in the log names those that lie in a stage's folder when the stage is made again.

## Opening them

These lines read the same assignments. Parts are named by their content: where the order matters, sort by `row_id`. In
object storage put `s3://bucket/run` in the place of `runs/demo`; DuckDB needs its `httpfs` extension for that, pandas
needs s3fs (which dxmc brings).
"""

#: Tool and lines; the test runs those that do not need a service.
ONE_LINERS = {
    "pandas": """\
import pandas as pd

assignments = pd.read_parquet("runs/demo/assign_clusters/assignments")
clusters = pd.read_parquet("runs/demo/assign_clusters/clusters")
sizes = assignments.merge(clusters[["cluster_id", "name"]], on="cluster_id").groupby("name").size()""",
    "Polars": """\
import polars as pl

assignments = pl.scan_parquet("runs/demo/assign_clusters/assignments/*.parquet")
clusters = pl.scan_parquet("runs/demo/assign_clusters/clusters/*.parquet").select("cluster_id", "name")
sizes = assignments.join(clusters, on="cluster_id").group_by("name").len().collect()""",
    "DuckDB": """\
import duckdb

assignments = duckdb.sql("SELECT * FROM 'runs/demo/assign_clusters/assignments/*.parquet'")
clusters = duckdb.sql("SELECT cluster_id, name FROM 'runs/demo/assign_clusters/clusters/*.parquet'")
sizes = duckdb.sql("SELECT name, count(*) FROM assignments JOIN clusters USING (cluster_id) GROUP BY name")""",
    "Spark": """\
assignments = spark.read.parquet("runs/demo/assign_clusters/assignments")
clusters = spark.read.parquet("runs/demo/assign_clusters/clusters").select("cluster_id", "name")
sizes = assignments.join(clusters, "cluster_id").groupBy("name").count()""",
}

_TAIL = """\
## Files

| file | what |
|---|---|
| `*/_own.json` | which attempts and files of dxmc the folder of a stage has; no others are removed |
| `run.json` | source, encoder, and the configuration of the run that used the directory last |
| `train_heads/heads.safetensors` | the trained heads: tensors, and the description they are rebuilt from |
| `train_heads/metrics.jsonl` | one line per epoch: loss terms, cluster sizes, balance, changed images, seconds |
| `report/index.html` | the report, complete in one file |
| `report/members/*/cluster-N.html` | all members of cluster N in pages of 200, from the best fit to the worst |
| `mine_neighbors/index.faiss` | a FAISS index of the image embeddings, ids are row ids; [SEARCH.md](SEARCH.md) |
| `mine_neighbors/text_index.faiss` | with `mine_neighbors.text_search_index`, one of the text counterparts |

`dxmc recluster` makes a run directory a night, `generations/000012`, and beside them:

| file | what |
|---|---|
| `current.json` | `current`: the number of the generation that counts; `highest`: the last number given |
| `generations/*/generation.json` | how and why it was made, its figures, and those that drift is measured against |
| `metrics.json`, `metrics.prom` | figures of the last run, whatever its end, as JSON and for Prometheus |
"""


def document() -> str:
    """The page."""
    blocks = [_HEAD.format(version=SCHEMA_VERSION)]
    for tool, lines in ONE_LINERS.items():
        note = " (not among the tests, which run the lines above)" if tool == "Spark" else ""
        blocks.append(f"{tool}{note}:\n\n```python\n{lines}\n```\n")
    for stage in dict.fromkeys(table.stage for table in TABLES):
        blocks.append(f"## {folder_of(stage)}\n")
        blocks += [_describe(table) for table in TABLES if table.stage == stage]
    return "\n".join([*blocks, _TAIL])


def _describe(table: Table) -> str:
    return "\n".join([f"### {folder_of(table.stage)}/{table.name}\n", f"{table.row}\n", *_rows(table), ""])


def _rows(table: Table) -> Iterator[str]:
    yield "| column | type | |"
    yield "|---|---|---|"
    length = "k" if table is NEIGHBORS else "D"
    for column in table.columns:
        kind = f"{_type(column.type.value_type)}[{length}]" if column.has_width else _type(column.type)
        yield f"| `{column.name}` | {kind} | {column.meaning} |"


def _type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {_type(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "{" + ", ".join(f"{field.name}: {_type(field.type)}" for field in kind) + "}"
    return {"halffloat": "float16", "float": "float32"}.get(str(kind), str(kind))


if __name__ == "__main__":
    PAGE.write_text(document(), encoding="utf-8")
    print(PAGE)
