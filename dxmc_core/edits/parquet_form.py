"""Edits as Parquet, the form for many: one row per edit, its action as JSON. file.py reads and writes the file."""

import io
import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dxmc_core.artifacts.user_tables import read_columns
from dxmc_core.edits.file import EditsError
from dxmc_core.errors import on_one_line

_COLUMNS = ("id", "author", "at", "reason", "kind", "content")


def parquet_rows(data: bytes, where: str) -> list[Any]:
    """The edits of a file as mappings, not checked yet.

    Raises:
        EditsError: it lacks a column, or an action is no JSON.
        InputError: it is no readable Parquet.
    """
    columns = read_columns(data, _COLUMNS, where)
    missing = [name for name in ("author", "at", "kind", "content") if name not in columns]
    if missing:
        raise EditsError([f"{where}: expected the columns {', '.join(_COLUMNS)}, found no {missing[0]}"])
    rows = []
    for number, row in enumerate(pa.table(columns).to_pylist(), start=1):
        try:
            content = json.loads(row.pop("content"))
        except (TypeError, ValueError, RecursionError) as error:
            raise EditsError([f"{where}: edit {number}: content: expected JSON: {on_one_line(error)}"]) from error
        head = {name: value for name, value in row.items() if name != "kind" and value is not None}
        rows.append({**head, str(row["kind"]): content})
    return rows


def parquet_bytes(rows: Iterable[dict[str, Any]]) -> bytes:
    """The content of such a file."""
    flat = []
    for row in rows:
        kind = next(key for key in row if key not in _COLUMNS)
        content = json.dumps(row[kind], ensure_ascii=False)
        flat.append({**{name: row.get(name) for name in _COLUMNS[:4]}, "kind": kind, "content": content})
    table = pa.Table.from_pylist(flat, schema=pa.schema([(name, pa.string()) for name in _COLUMNS]))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
