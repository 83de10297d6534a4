"""Names that clusters keep: those of the run before, and those that a person gave, read from a small file."""

import csv
import hashlib
import io
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import yaml

from dxmc_core.artifacts.storage import read_user_file
from dxmc_core.artifacts.tables import CLUSTERS, unedited
from dxmc_core.artifacts.user_tables import column_names, read_columns, require_once
from dxmc_core.artifacts.user_values import as_text
from dxmc_core.edits.model import MAX_CLUSTER_ID, ClusterRef, Edit, Rename, require_name
from dxmc_core.errors import InputError, named
from dxmc_core.method.nouns.name_choice import numbered, spelling_key, told_apart

#: `name_source` of a name that a person gave.
PERSON = "person"
_UNNAMED = "unnamed"
_COLUMNS = ("cluster_id", "name")
_EXPECTED = "expected .yaml with `17: red cars` a line, or .csv or .parquet with the columns cluster_id and name"


def read_renames(uri: str) -> dict[int, str]:
    """Names that a person gave, by cluster id, from .yaml, .csv or .parquet on local disk or in object storage.

    YAML is taken as it is written: `17: no` names a cluster "no", and nothing in the file is executed.

    Raises:
        InputError: the file cannot be read or is of another kind, an id is no id or appears twice, or a name is empty,
            too long, holds control characters, or is given to two clusters.
    """
    with named("assign_clusters.renames"):
        data = read_user_file(uri)
    readers = {".yaml": _yaml_pairs, ".yml": _yaml_pairs, ".csv": _csv_pairs, ".parquet": _parquet_pairs}
    suffix = posixpath.splitext(uri)[1].lower()
    if suffix not in readers:
        raise InputError(f"assign_clusters.renames: {uri} ends in {suffix or 'nothing'}; {_EXPECTED}")
    try:
        pairs = list(readers[suffix](data, uri))
    except (ValueError, RecursionError, yaml.YAMLError, csv.Error) as error:
        raise InputError(f"assign_clusters.renames: {uri}: {' '.join(str(error).split())}; {_EXPECTED}") from error
    return _checked(pairs, uri)


def _yaml_pairs(data: bytes, _uri: str) -> Iterable[tuple[str, str]]:
    # Nodes instead of values: they keep keys that are there twice, and a name such as "no" stays text.
    node = yaml.compose(data.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    if node is None:
        return
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("its top is a list or a single value")
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or not isinstance(value, yaml.ScalarNode):
            raise ValueError(f"line {key.start_mark.line + 1} is not `id: name`")
        yield key.value, value.value


def _csv_pairs(data: bytes, uri: str) -> Iterable[tuple[str, str]]:
    reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), restval="")
    _require_columns(reader.fieldnames or (), uri)
    for row in reader:
        yield row["cluster_id"], row["name"]


def _parquet_pairs(data: bytes, uri: str) -> Iterable[tuple[str, str]]:
    with named("assign_clusters.renames"):
        columns = read_columns(data, _COLUMNS, uri)
        _require_columns(column_names(data, uri), uri)
    for cluster_id, name in zip(*(as_text(columns[column].to_pylist()) for column in _COLUMNS), strict=True):
        yield cluster_id or "", name or ""


def _require_columns(found: Sequence[str], uri: str) -> None:
    missing = [column for column in _COLUMNS if column not in found]
    if missing:
        raise ValueError(f"has no column {missing[0]}, only {', '.join(found) or 'none'}")
    for column in _COLUMNS:
        require_once(column, found, uri)


def _checked(pairs: Iterable[tuple[str, str]], uri: str) -> dict[int, str]:
    renames: dict[int, str] = {}
    ids_by_name: dict[str, int] = {}
    for text, raw in pairs:
        where = f"assign_clusters.renames: {uri}: cluster_id {text!r}"
        if not (text.strip().isascii() and text.strip().isdigit() and int(text) <= MAX_CLUSTER_ID):
            raise InputError(f"{where} is not a number in 0..{MAX_CLUSTER_ID}")
        cluster_id = int(text)
        try:
            name = require_name(raw)
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
        if cluster_id in renames:
            raise InputError(f"{where} is there twice; give it one name")
        other = ids_by_name.setdefault(name.casefold(), cluster_id)
        if other != cluster_id:
            raise InputError(f"{where} has the name of cluster {other}, {name!r}; no two names may be alike")
        renames[cluster_id] = name
    return renames


def rename_edits(renames: Mapping[int, str]) -> tuple[Edit, ...]:
    """Names from such a file as the edits that they are."""
    found = []
    for cluster_id, name in renames.items():
        edit_id = hashlib.sha256(f"{cluster_id} {name}".encode()).hexdigest()[:8]
        action = Rename(cluster=ClusterRef(id=cluster_id), name=name)
        at = datetime.fromtimestamp(0, UTC)  # the file does not say when
        found.append(Edit(id=edit_id, author="assign_clusters.renames", at=at, action=action))
    return tuple(found)


def require_known(renames: Mapping[int, str], ids_given: int) -> None:
    """Check that names were given to clusters that there are or have been.

    Args:
        ids_given: ids from 0 to this one less one have been given. One whose cluster has ended stays known, so that a
            schedule does not stop because of it.

    Raises:
        InputError: an id was never given.
    """
    unknown = sorted(cluster_id for cluster_id in renames if cluster_id >= ids_given)
    if unknown:
        raise InputError(
            f"assign_clusters.renames: there is no cluster {unknown[0]} ({renames[unknown[0]]!r}); expected numbers "
            f"from 0 to {ids_given - 1}, which the report shows"
        )


def named_clusters(
    clusters: pa.Table, *, previous: Mapping[int, Mapping[str, Any]], renames: Mapping[int, str]
) -> dict[str, pa.Table]:
    """The table `clusters` by `settle_names`; and where people named any, the one that it would be without them.

    By the latter, a name that is taken back leaves nothing behind.
    """
    found = {CLUSTERS.name: settle_names(clusters, previous=previous, renames=renames)}
    if PERSON in found[CLUSTERS.name]["name_source"].to_pylist():
        found[unedited(CLUSTERS).name] = settle_names(clusters, previous=previous, renames={})
    return found


def settle_names(
    clusters: pa.Table, *, previous: Mapping[int, Mapping[str, Any]], renames: Mapping[int, str]
) -> pa.Table:
    """The table `clusters` with its final names: a person's, else the one the cluster had, else the new one.

    A cluster that had only its number, or whose name a person gave and has since taken back, gets its new name. Where
    `clusters` itself has the name that was taken back, as in runs from before `named_clusters`, it is the noun that
    describes it best.
    Names stay unique ignoring case: where two are alike, the one that ranks lower in this order is told apart by a noun
    that describes it and not the other.

    Args:
        clusters: with final cluster ids.
        previous: rows of the previous run's `clusters` by id; only their name and name_source count.
        renames: as of `read_renames`; ids that are not in the table are of clusters that have ended.
    """
    chosen: list[tuple[int, int, str, str]] = []  # rank, position, name, source
    rows = clusters.to_pylist()
    for position, row in enumerate(rows):
        before = previous.get(row["cluster_id"])
        if row["cluster_id"] in renames:
            chosen.append((0, position, renames[row["cluster_id"]], PERSON))
        elif before is not None and before["name_source"] not in (PERSON, _UNNAMED):
            chosen.append((1, position, before["name"], before["name_source"]))
        elif row["name_source"] == PERSON:
            noun = next(iter(row["names"]), None)
            own = (noun, "noun") if noun is not None else (numbered(row["cluster_id"]), _UNNAMED)
            chosen.append((2, position, *own))
        elif row["name_source"] == _UNNAMED:
            _, bracket, noun = row["name"].partition(" (")  # what it is, where others are the same
            chosen.append((2, position, f"{numbered(row['cluster_id'])}{bracket}{noun}", _UNNAMED))
        else:
            chosen.append((2, position, row["name"], row["name_source"]))
    taken: set[str] = set()
    nouns_of: dict[str, set[str]] = {}
    for _, position, name, source in sorted(chosen):
        nouns, of_rivals = rows[position]["names"], nouns_of.setdefault(spelling_key(name), set())
        others = [noun for noun in nouns if spelling_key(noun) not in of_rivals]
        final = told_apart(name, others, taken, cluster_id=rows[position]["cluster_id"])
        of_rivals.update(map(spelling_key, nouns))
        taken.add(final.casefold())
        rows[position] |= {"name": final, "name_source": source}
    return pa.Table.from_pylist(rows, schema=clusters.schema)
