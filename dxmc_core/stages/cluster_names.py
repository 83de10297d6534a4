"""Names that clusters keep: those of the run before, and those that a person gave."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from dxmc_core.artifacts.tables import CLUSTERS, unedited
from dxmc_core.method.nouns.name_choice import numbered, spelling_key, told_apart

#: `name_source` of a name that a person gave.
PERSON = "person"
_UNNAMED = "unnamed"


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
