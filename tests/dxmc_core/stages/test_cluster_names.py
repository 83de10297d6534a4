"""Which name of several a cluster ends up with."""

import pyarrow as pa

from dxmc_core.artifacts.tables import CLUSTERS
from dxmc_core.stages.cluster_names import named_clusters, settle_names


def clusters(*rows):
    described = [
        {
            "cluster_id": cluster_id, "size": 1, "name": name, "names": list(names), "name_evidence": [],
            "name_source": source, "exemplars": [], "border": [], "cohesion": 0.0, "mean_confidence": 0.0,
            "nearest_clusters": [],
        }
        for cluster_id, name, source, names in rows
    ]  # fmt: skip
    return pa.Table.from_pylist(described, schema=CLUSTERS.schema())


def settled(table, *, previous=None, renames=None):
    before = {key: {"name": name, "name_source": source} for key, (name, source) in (previous or {}).items()}
    result = settle_names(table, previous=before, renames=renames or {})
    return [(row["cluster_id"], row["name"], row["name_source"]) for row in result.to_pylist()]


def test_a_person_comes_first_then_the_name_a_cluster_had_then_the_new_one():
    table = clusters((4, "dog", "noun", ["dog"]), (7, "cat", "noun", ["cat"]), (9, "animal", "hypernym", []))
    found = settled(table, previous={4: ("hound", "noun"), 7: ("kitten", "noun")}, renames={7: "Tom", 50: "gone"})
    assert found == [(4, "hound", "noun"), (7, "Tom", "person"), (9, "animal", "hypernym")]


def test_tables_without_the_names_of_people_are_kept_beside_theirs():
    table = clusters((4, "dog", "noun", ["dog"]), (7, "cat", "noun", ["cat"]))
    before = {4: {"name": "hound", "name_source": "noun"}}
    found = named_clusters(table, previous=before, renames={7: "Tom"})
    assert [found[name]["name"].to_pylist() for name in ("clusters", "unedited_clusters")] == [
        ["hound", "Tom"],
        ["hound", "cat"],
    ]
    assert set(named_clusters(table, previous=before, renames={})) == {"clusters"}


def test_a_name_that_was_taken_back_and_has_nothing_beneath_it_gives_way_to_a_noun():
    table = clusters((4, "Tom", "person", ["dog"]), (7, "Jim", "person", []))
    assert settled(table) == [(4, "dog", "noun"), (7, "cluster 7", "unnamed")]


def test_a_name_taken_out_of_the_file_and_an_old_unnamed_give_way_to_the_new_name():
    table = clusters((4, "dog", "noun", ["dog"]), (7, "cat", "noun", ["cat"]))
    found = settled(table, previous={4: ("Rex", "person"), 7: ("cluster 7", "unnamed")})
    assert found == [(4, "dog", "noun"), (7, "cat", "noun")]


def test_unnamed_clusters_are_called_by_their_id():
    assert settled(clusters((31, "cluster 2", "unnamed", []))) == [(31, "cluster 31", "unnamed")]


def test_names_stay_unique_and_the_lower_in_rank_is_told_apart():
    table = clusters(
        (4, "wolf", "noun", ["wolf"]), (7, "cat", "noun", ["cat"]), (9, "dog", "noun", ["dog", "puppy"]),
        (12, "bus", "noun", []),
    )  # fmt: skip
    found = settled(table, previous={4: ("dog", "noun"), 7: ("bus", "noun")}, renames={7: "Bus"})
    assert [name for _, name, _ in found] == ["dog", "Bus", "dog (puppy)", "cluster 12 (bus)"]


def test_what_is_true_of_both_does_not_tell_them_apart():
    table = clusters((4, "wolf", "noun", ["wolf", "puppy"]), (9, "dog", "noun", ["dog", "puppy", "beach"]))
    assert [name for _, name, _ in settled(table, previous={4: ("dog", "noun")})] == ["dog", "dog (beach)"]


def test_an_unnamed_cluster_keeps_what_it_is():
    assert settled(clusters((31, "cluster 2 (dog)", "unnamed", []))) == [(31, "cluster 31 (dog)", "unnamed")]


def test_nothing_changes_without_an_earlier_run_and_a_file():
    table = clusters((0, "dog", "noun", ["dog"]), (1, "cluster 1", "unnamed", []))
    assert settle_names(table, previous={}, renames={}).equals(table)
