"""Rows of tables that lie in several chunks, and columns that people bring."""

import numpy as np
import pyarrow as pa
import pytest

from dxmc_core.artifacts.user_tables import common_types, plain_type, take_rows


def chunked_table() -> pa.Table:
    """Ten rows, whose columns are cut at different places."""
    texts = [f"text {row}" if row % 4 else None for row in range(10)]
    columns = {
        "text": pa.chunked_array([texts[:3], texts[3:4], texts[4:]], pa.string()),
        "bytes": pa.chunked_array([[bytes([row]) for row in range(7)], [b"", None, b"x"]], pa.binary()),
        "words": pa.chunked_array([[[str(row)] * (row % 3) for row in range(10)]], pa.list_(pa.string())),
        "struct": pa.chunked_array([[{"name": str(row), "size": row} for row in range(5)]] * 2),
        "vector": pa.chunked_array([[[row, -row] for row in range(10)]], pa.list_(pa.float32(), 2)),
        "number": pa.chunked_array([[0, 1], list(range(2, 10))]),
    }
    schema = pa.schema([pa.field(name, column.type, nullable=name != "number") for name, column in columns.items()])
    return pa.table(list(columns.values()), schema=schema.with_metadata({"made": "here"}))


@pytest.mark.parametrize("positions", [[9, 0, 3, 3, 4], list(range(10)), []])
def test_rows_are_taken_in_the_order_given(positions):
    table = chunked_table()
    taken = take_rows(table, np.array(positions, dtype=np.int64))
    assert taken.schema.equals(table.schema, check_metadata=True)
    rows = table.to_pylist()
    assert taken.to_pylist() == [rows[position] for position in positions]


def test_dictionaries_are_resolved_at_any_depth():
    words = pa.dictionary(pa.int8(), pa.string())
    kind = pa.struct([("words", pa.list_(words)), ("view", pa.string_view())])
    assert plain_type(kind) == pa.struct([("words", pa.list_(pa.string())), ("view", pa.string())])


def test_one_type_for_all_files_does_not_depend_on_their_order():
    types = {"a": pa.null(), "b": pa.int64(), "c": pa.float64(), "d": pa.int8()}
    for order in ("abcd", "dcba", "bdac"):
        assert common_types({"x": {name: types[name] for name in order}}) == {"x": pa.float64()}
