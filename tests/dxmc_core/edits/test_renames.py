"""Names from a person's file."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxmc_core.edits.renames import read_renames, require_known
from dxmc_core.errors import InputError

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


def test_a_number_that_no_cluster_has_had_is_an_error():
    require_known({0: "red cars", 9: "an old one"}, 10)
    message = r"assign_clusters\.renames: there is no cluster 10 \('staff'\); expected numbers from 0 to 9"
    with pytest.raises(InputError, match=message):
        require_known({0: "red cars", 11: "x", 10: "staff"}, 10)
