"""Names that a person gives to clusters in a small file of their own, and the edits that they are."""

import csv
import hashlib
import io
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import yaml

from dxmc_core.artifacts.storage import read_user_file
from dxmc_core.artifacts.user_values import as_text, require_once
from dxmc_core.edits.model import MAX_CLUSTER_ID, ClusterRef, Edit, Rename, require_name
from dxmc_core.errors import InputError, named

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
    from dxmc_core.artifacts.user_tables import column_names, read_columns  # late: it brings pyarrow

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
