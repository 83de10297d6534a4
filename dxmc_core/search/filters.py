"""Which images a search looks among: conditions on the catalog, on the assignments, and on clusters by name."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.tables import ASSIGNMENTS, CATALOG, Table
from dxmc_core.errors import InputError

#: The column that stands for a cluster by its number or its name.
CLUSTER = "cluster"

_CONDITION = re.compile(
    r"^\s*(?P<column>[^=!<>]*[^=!<>\s])\s*(?P<operator>=|!=|<=|>=|<|>)\s*(?P<value>.*?)\s*$", re.DOTALL
)
_COMPARE = {
    "=": pc.equal, "!=": pc.not_equal, "<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal,
}  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """`column operator value`, as in label=dog or size>100000; a row without a value does not meet it."""

    column: str
    operator: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Raises an InputError where the text is no condition."""
        found = _CONDITION.match(text)
        if found is None:
            raise InputError(f"--where {text!r}: expected COLUMN=VALUE, or !=, <, <=, >, >= in place of =")
        return cls(**found.groupdict())

    def __str__(self) -> str:
        return f"{self.column}{self.operator}{self.value}"

    def of(self, column: pa.ChunkedArray) -> np.ndarray:
        """Where a column (n,) meets it, (n,) bool.

        Raises:
            InputError: the value is not of the column's type.
        """
        try:
            met = _COMPARE[self.operator](column, pc.cast(pa.scalar(self.value), column.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"--where {self}: expected a value of type {column.type}, as {self.column} has") from error
        return pc.fill_null(met, False).to_numpy()


def allowed_rows(run_dir: RunDir, conditions: Sequence[Condition], clusters: pa.Table) -> np.ndarray:
    """The rows that meet all conditions, (M,) bool by row id.

    Args:
        clusters: the columns cluster_id and name.

    Raises:
        InputError: there is no such column or cluster, or a value is not of a column's type.
    """
    columns = {table: _columns(run_dir.stage(table.stage), table) for table in (CATALOG, ASSIGNMENTS)}
    allowed = np.ones(run_dir.stage(CATALOG.stage).require_manifest().rows(CATALOG.name), dtype=bool)
    for condition in conditions:
        if condition.column == CLUSTER:
            condition = _by_number(condition, clusters)
        table = next((table for table, names in columns.items() if condition.column in names), None)
        if table is None:
            known = ", ".join(dict.fromkeys([CLUSTER, *columns[CATALOG], *columns[ASSIGNMENTS]]))
            raise InputError(f"--where {condition}: there is no column {condition.column!r}, but {known}")
        met = np.zeros_like(allowed)
        wanted = list(dict.fromkeys(["row_id", condition.column]))
        for part in run_dir.stage(table.stage).iter_parts(table, wanted):
            met[part["row_id"].to_numpy()[condition.of(part[condition.column])]] = True
        allowed &= met
    return allowed


def _columns(stage: StageDir, table: Table) -> list[str]:
    return stage.footer_of(stage.require_manifest().tables[table.name][0]).schema.to_arrow_schema().names


def _by_number(condition: Condition, clusters: pa.Table) -> Condition:
    """The same condition on cluster_id: a cluster is given by its number or by its name."""
    numbers = dict(zip(clusters["name"].to_pylist(), clusters["cluster_id"].to_pylist(), strict=True))
    number = numbers.get(condition.value, condition.value)
    if condition.operator not in ("=", "!=") or str(number) not in map(str, numbers.values()):
        close = difflib.get_close_matches(condition.value, numbers, n=3) or list(numbers)[:3]
        raise InputError(
            f"--where {condition}: expected = or != and a cluster by its number or its name, such as {', '.join(close)}"
        )
    return replace(condition, column="cluster_id", value=str(number))
