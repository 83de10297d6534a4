"""Sources: folders, globs and list files, and what newcomers get wrong."""

import os

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from dxmc_core.errors import InputError
from dxmc_core.images.decode import ImageRejectedError, RejectReason
from dxmc_core.images.fetch import FetchImages
from dxmc_core.images.listing import LISTED, ListedImage, list_images, problem_of, rejection_of
from dxmc_core.images.sources import ImagesSource


def listed(uri, **options) -> list[ListedImage]:
    rows = [row for table in list_images(str(uri), **options) for row in table.select(LISTED.names).to_pylist()]
    return [ListedImage(**row) for row in rows]


@pytest.fixture
def photos(tmp_path):
    for name in ("cat/1.jpg", "cat/2.JPEG", "dog/deep/3.png", "dog/bare", "notes.md", ".hidden.jpg", "dog/table.csv"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))
    return tmp_path / "photos"


def test_folder_is_searched_at_all_depths_in_the_order_of_ids(photos):
    images = listed(photos, label_from="parent_folder")
    assert [image.image_id for image in images] == ["cat/1.jpg", "cat/2.JPEG", "dog/bare", "dog/deep/3.png"]
    assert [image.label for image in images] == ["cat", "cat", "dog", "deep"]
    assert images[0].uri == str(photos / "cat/1.jpg")
    assert images[0].size == len("cat/1.jpg")


def test_etag_changes_with_the_content(photos):
    before = {image.image_id: image.etag for image in listed(photos)}
    (photos / "cat/1.jpg").write_bytes(b"longer than it was")
    after = {image.image_id: image.etag for image in listed(photos)}
    assert [name for name in before if before[name] != after[name]] == ["cat/1.jpg"]


def test_glob(photos):
    assert [image.image_id for image in listed(f"{photos}/*/*.jpg")] == ["cat/1.jpg"]
    assert [image.image_id for image in listed(f"{photos}/cat/*")] == ["1.jpg", "2.JPEG"]


def test_folder_whose_name_looks_like_a_glob(tmp_path):
    folder = tmp_path / "holiday [2024]"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"x")
    assert [image.image_id for image in listed(folder)] == ["a.jpg"]


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".parquet"])
def test_list_file(photos, suffix):
    names = ["cat/1.jpg", str(photos / "dog/deep/3.png"), "gone.jpg"]
    path = photos / f"list{suffix}"
    if suffix == ".txt":
        path.write_text("\n".join([*names, "", ""]))
    elif suffix == ".csv":
        path.write_text("uri,kind\n" + "".join(f"{uri},{uri[-3:]}\n" for uri in names))
    else:
        pq.write_table(pa.table({"uri": names, "kind": [uri[-3:] for uri in names]}), path)
    images = {image.image_id: image for image in listed(path, label_from=None if suffix == ".txt" else "kind")}
    assert list(images) == names
    assert images["cat/1.jpg"].uri == str(photos / "cat/1.jpg")
    assert images["gone.jpg"].size == -1
    assert images["cat/1.jpg"].label == (None if suffix == ".txt" else "jpg")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nowhere", None, "does not exist"),
        ("empty", "", "no images in"),
        ("a.csv", "uri,kind\nx.jpg\n", "a row of 1 values under 2 columns"),
        ("a.txt", "\n\n", "no images in"),
        ("a.csv", "path\nx.jpg\n", "no column 'uri'; it has \\['path'\\]"),
        ("a.parquet", "not parquet", "not a readable parquet file"),
        ("photo.jpg", "x", "is one file"),
    ],
)
def test_unusable_sources_are_one_clear_error(tmp_path, name, content, message):
    if name == "empty":
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        list_images(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_label_column_that_is_not_there(photos):
    (photos / "list.csv").write_text("uri\ncat/1.jpg\n")
    with pytest.raises(InputError, match="no column 'kind'"):
        list_images(str(photos / "list.csv"), label_from="kind")
    with pytest.raises(InputError, match="expected parent_folder"):
        list_images(str(photos), label_from="kind")


def test_columns_of_a_list_are_used_or_carried(tmp_path):
    table = pa.table(
        {
            "uri": ["a.jpg", "s3://elsewhere/b.jpg"],
            "image_id": [7, 8],
            "size": [10, None],
            "etag": ['"abc"', None],
            "price": [1.5, None],
            "label": ["cat", "dog"],
            "thumbnail": [b"x", b"y"],
        }
    )
    pq.write_table(table, tmp_path / "list.parquet")
    (rows,) = list_images(str(tmp_path / "list.parquet"))
    assert rows["image_id"].to_pylist() == ["7", "8"]
    assert rows["uri"].to_pylist() == [str(tmp_path / "a.jpg"), "s3://elsewhere/b.jpg"]
    assert rows["size"].to_pylist() == [10, -1]  # from the list: no file was looked at
    assert rows["etag"].to_pylist() == ["abc", ""]
    assert rows["price"].to_pylist() == [1.5, None]
    assert rows["label"].to_pylist() == [None, None]
    assert rows["source_label"].to_pylist() == ["cat", "dog"]
    assert "thumbnail" not in rows.column_names


def test_csv_with_commas_and_line_breaks_in_values(tmp_path):
    (tmp_path / "list.csv").write_text('\ufeffuri,note\n"a, b.jpg","two\nlines"\n\nc.jpg,\n', encoding="utf-8")
    (rows,) = list_images(str(tmp_path / "list.csv"))
    assert rows["image_id"].to_pylist() == ["a, b.jpg", "c.jpg"]
    assert rows["note"].to_pylist() == ["two\nlines", ""]


def test_list_of_many_rows_comes_in_tables_in_its_order(tmp_path):
    names = [f"{index:05}.jpg" for index in reversed(range(20_000))]
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"uri": names, "size": [1] * 20_000, "etag": names}), path)
    tables = list(list_images(str(path)))
    assert len(tables) > 1
    assert [name for table in tables for name in table["image_id"].to_pylist()] == names


def test_problem_keeps_reason_and_message():
    found = rejection_of(problem_of(RejectReason.TRUNCATED, "cut: at 7"))
    assert isinstance(found, ImageRejectedError)
    assert (found.reason, found.message) == (RejectReason.TRUNCATED, "cut: at 7")


#: Names that some library takes for more than a name.
ODD_NAMES = [
    "cat", "cat::2.jpg", "12::30::05.jpg", "file::cat", "simplecache::cat", "cat?w=300", "cat?versionId=7", "cat#2.jpg",
    "[c]at", "c*t", "{cat,dog}", "~", "~root", "$HOME.jpg", "%63at", " cat", "cat ", "cat\\", "a,b.jpg", "http:cat",
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".parquet"])
@pytest.mark.parametrize("is_absolute", [True, False])
def test_names_in_a_list_are_only_names(tmp_path, suffix, is_absolute):
    folder = tmp_path / "[2021] my::folder"
    folder.mkdir()
    for name in ODD_NAMES:
        (folder / name).write_bytes(name.encode())
    values = [str(folder / name) if is_absolute else name for name in ODD_NAMES]
    path = folder / f"list{suffix}"
    if suffix == ".txt":
        path.write_text("\n".join(values))
    elif suffix == ".csv":
        pacsv.write_csv(pa.table({"uri": values}), path)
    else:
        pq.write_table(pa.table({"uri": values}), path)
    (rows,) = list_images(str(path))
    assert rows["image_id"].to_pylist() == values
    assert rows["size"].to_pylist() == [len(name) for name in ODD_NAMES]
    assert list(FetchImages(ImagesSource(uri=""))(rows)) == [name.encode() for name in ODD_NAMES]


def test_blanks_around_a_name_count_only_where_a_file_has_them(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / " b.jpg").write_bytes(b"b")
    (tmp_path / "list.txt").write_text("a.jpg \n b.jpg\n")
    assert [(image.image_id, image.size) for image in listed(tmp_path / "list.txt")] == [("a.jpg", 1), (" b.jpg", 1)]


def test_what_a_list_names_that_is_no_file_is_a_reject(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"a")
    os.mkfifo(tmp_path / "pipe")
    values = [
        "folder",
        "pipe",
        "/dev/null",
        "a.jpg/b",
        "x" * 300,
        "a\0b",
        "gs://bucket/x",
        "nosuch://x",
        "http://h:x/y",
        "a.jpg",
    ]
    pq.write_table(pa.table({"uri": values}), tmp_path / "list.parquet")
    known = {"uri": values, "size": [1] * len(values), "etag": ["1"] * len(values)}
    pq.write_table(pa.table(known), tmp_path / "known.parquet")
    for name in ("list.parquet", "known.parquet"):
        (rows,) = list_images(str(tmp_path / name))
        files = list(FetchImages(ImagesSource(uri=""))(rows))
        assert [str(file.reason) for file in files[:3]] == ["not_an_image"] * 3
        reasons = [str(file.reason) for file in files[3:-1]]
        # Two lack a package, which may be installed.
        assert reasons == ["missing"] * 3 + ["unreachable"] * 2 + ["missing"]
        assert files[-1] == b"a"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pipe.csv", "is a named pipe"),
        ("folder.txt", "no images in"),
        ("empty.csv", "no column 'uri'"),
        ("empty.txt", "no images in"),
        ("empty.parquet", "not a readable parquet file"),
        ("gone.txt", "cannot read the list"),
        ("loop.txt", "cannot read the list"),
        ("x.jpg/list.txt", "cannot read the list"),
        ("gs://bucket/list.txt", "gcsfs"),
        ("gs://bucket/", "gcsfs"),
        ("zip://a", "cannot use"),
        ("nosuch://a", "cannot use"),
    ],
)
def test_places_that_are_no_lists_are_one_clear_error(tmp_path, name, message):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    for empty in ("empty.csv", "empty.txt", "empty.parquet", "x.jpg"):
        (tmp_path / empty).touch()
    with pytest.raises(InputError, match=message) as caught:
        list_images(name if "://" in name else str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_folder_that_is_called_like_a_list(tmp_path):
    (tmp_path / "photos.csv").mkdir()
    (tmp_path / "photos.csv" / "a.jpg").write_bytes(b"x")
    assert [image.image_id for image in listed(tmp_path / "photos.csv")] == ["a.jpg"]
