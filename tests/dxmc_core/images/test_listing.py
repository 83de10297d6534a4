"""Sources: folders, globs and list files, and what newcomers get wrong."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dxmc_core.errors import InputError
from dxmc_core.images.listing import list_images


@pytest.fixture
def photos(tmp_path):
    for name in ("cat/1.jpg", "cat/2.JPEG", "dog/deep/3.png", "dog/bare", "notes.md", ".hidden.jpg", "dog/table.csv"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))
    return tmp_path / "photos"


def test_folder_is_searched_at_all_depths_in_the_order_of_ids(photos):
    images = list_images(str(photos), label_from="parent_folder")
    assert [image.image_id for image in images] == ["cat/1.jpg", "cat/2.JPEG", "dog/bare", "dog/deep/3.png"]
    assert [image.label for image in images] == ["cat", "cat", "dog", "deep"]
    assert images[0].uri == str(photos / "cat/1.jpg")
    assert images[0].size == len("cat/1.jpg")


def test_etag_changes_with_the_content(photos):
    before = {image.image_id: image.etag for image in list_images(str(photos))}
    (photos / "cat/1.jpg").write_bytes(b"longer than it was")
    after = {image.image_id: image.etag for image in list_images(str(photos))}
    assert [name for name in before if before[name] != after[name]] == ["cat/1.jpg"]


def test_glob(photos):
    assert [image.image_id for image in list_images(f"{photos}/*/*.jpg")] == ["cat/1.jpg"]
    assert [image.image_id for image in list_images(f"{photos}/cat/*")] == ["1.jpg", "2.JPEG"]


def test_folder_whose_name_looks_like_a_glob(tmp_path):
    folder = tmp_path / "holiday [2024]"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"x")
    assert [image.image_id for image in list_images(str(folder))] == ["a.jpg"]


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".parquet"])
def test_list_file(photos, suffix):
    listed = ["cat/1.jpg", str(photos / "dog/deep/3.png"), "gone.jpg"]
    path = photos / f"list{suffix}"
    if suffix == ".txt":
        path.write_text("\n".join([*listed, ""]))
    elif suffix == ".csv":
        path.write_text("uri,kind\n" + "".join(f"{uri},{uri[-3:]}\n" for uri in listed))
    else:
        pq.write_table(pa.table({"uri": listed, "kind": [uri[-3:] for uri in listed]}), path)
    images = {
        image.image_id: image for image in list_images(str(path), label_from=None if suffix == ".txt" else "kind")
    }
    assert set(images) == set(listed)
    assert images["cat/1.jpg"].uri == str(photos / "cat/1.jpg")
    assert images["gone.jpg"].size == -1
    assert images["cat/1.jpg"].label == (None if suffix == ".txt" else "jpg")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nowhere", None, "does not exist"),
        ("empty", "", "no images in"),
        ("a.txt", "one.jpg\none.jpg\n", "lists 'one.jpg' twice"),
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
