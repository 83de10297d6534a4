"""Names from a person's file, and which name of several a cluster ends up with."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxmc_core.artifacts.tables import CLUSTERS
from dxmc_core.errors import InputError
from dxmc_core.stages.cluster_names import named_clusters, read_renames, require_known, settle_names

NAMES = {3: "red cars", 17: "no"}


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_every_kind_of_file_gives_the_same_names(tmp_path):
    written = [
        write(tmp_path, "a.yaml", "# mine\n3: ' red cars '\n17: no\n"),
        write(tmp_path, "b.yml", '{"3": red cars, 17: "no"}'),
        write(tmp_path, "c.csv", "\ufeffname,cluster_id\nred cars,3\nno,17\n"),
    ]
    pq.write_table(pa.table({"cluster_id": [3, 17], "name": ["red cars", "no"]}), tmp_path / "d.parquet")
    assert [read_renames(uri) for uri in [*written, str(tmp_path / "d.parquet")]] == [NAMES] * 4


def test_an_empty_file_renames_nothing(tmp_path):
    assert read_renames(write(tmp_path, "a.yaml", "# nothing yet\n")) == {}
    assert read_renames(write(tmp_path, "a.csv", "cluster_id,name\n")) == {}


def test_files_in_object_storage(s3_bucket):
    s3_bucket.put("names.yaml", b"17: no")
    assert read_renames(f"{s3_bucket.uri}/names.yaml") == {17: "no"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "3: x\n3: y", "'3' is there twice"),
        ("a.yaml", "three: x", "'three' is not a number"),
        ("a.yaml", "-1: x", "is not a number"),
        ("a.yaml", "²: x", "is not a number"),
        ("a.yaml", "4294967296: x", "is not a number"),
        ("a.yaml", "3:\n", "expected a name"),
        ("a.yaml", '3: "a\\tb"', "printable"),
        ("a.yaml", f"3: {'x' * 201}", "expected a name of 1 to 200"),
        ("a.yaml", "3: Cats\n4: cats", "has the name of cluster 3"),
        ("a.yaml", "- 3", "its top is a list"),
        ("a.yaml", "3: [x]", "line 1 is not"),
        ("a.yaml", "3: 'x", "expected .yaml with"),
        ("a.yaml", "3: !!python/object/apply:os.getcwd []", "line 1 is not"),
        ("a.yaml", b"3: \xff", "utf-8"),
        ("a.csv", "id,name\n3,x\n", "no column cluster_id, only id, name"),
        ("a.csv", "cluster_id,name\n3\n", "expected a name"),
        ("a.parquet", "PAR1", "is not readable Parquet"),
        ("a.json", "{}", "ends in .json"),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(tmp_path, name, content, message):
    uri = write(tmp_path, name, content)
    with pytest.raises(InputError, match=r"assign_clusters\.renames") as caught:
        read_renames(uri)
    assert message in str(caught.value)
    assert uri in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        read_renames(str(tmp_path / "none.yaml"))


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


def test_a_number_that_no_cluster_has_had_is_an_error():
    require_known({0: "red cars", 9: "an old one"}, 10)
    message = r"assign_clusters\.renames: there is no cluster 10 \('staff'\); expected numbers from 0 to 9"
    with pytest.raises(InputError, match=message):
        require_known({0: "red cars", 11: "x", 10: "staff"}, 10)


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
