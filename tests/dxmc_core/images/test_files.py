"""Finding files in folders and buckets: order, links, names that are no text, what cannot be listed."""

import os

import pytest

from dxmc_core.errors import InputError
from dxmc_core.images.files import find_files


def names(uri, accept=lambda path: True):
    return [file.name for file in find_files(str(uri), accept=accept)]


@pytest.fixture
def tree(tmp_path):
    for name in ("b.jpg", "b/2", "b/1", "a/x/deep", "b-c", "c"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "tree"


def test_local_files_come_in_the_order_of_their_names(tree):
    found = names(tree)
    assert found == sorted(found) == ["a/x/deep", "b-c", "b.jpg", "b/1", "b/2", "c"]


def test_links_are_followed_once(tree):
    (tree / "b" / "again").symlink_to(tree)
    (tree / "b" / "other").symlink_to(tree / "a")
    (tree / "b" / "nowhere").symlink_to(tree / "gone")
    files = {file.name: file for file in find_files(str(tree), accept=lambda path: True)}
    assert "b/other/x/deep" in files
    assert files["b/nowhere"].size == -1
    assert not any(name.startswith("b/again") for name in files)


def test_name_that_is_no_text_keeps_a_place(tree):
    with open(os.fsencode(tree) + b"/\xff.jpg", "wb") as file:  # noqa: PTH123 - no Path takes bytes
        file.write(b"x")
    assert r"\udcff.jpg" in names(tree)


def test_glob_is_relative_to_its_fixed_part(tree):
    assert names(f"{tree}/b/*") == ["1", "2"]
    assert names(f"{tree}/**/d*") == ["a/x/deep"]
    assert names(f"{tree}/?.jpg") == ["b.jpg"]


@pytest.mark.parametrize(("place", "message"), [("gone", "does not exist"), ("c", "is one file")])
def test_places_that_cannot_be_listed(tree, place, message):
    with pytest.raises(InputError, match=message):
        names(tree / place)


def test_bucket(s3_bucket):
    for key in ("photos/b.jpg", "photos/b/1", "photos/a//odd", "photos/", "photos/b-c", "photosynthesis"):
        s3_bucket.put(key, b"12345")
    files = list(find_files(f"{s3_bucket.uri}/photos/", accept=lambda path: True))
    assert [file.name for file in files] == ["a//odd", "b-c", "b.jpg", "b/1"]
    assert files[0].uri == f"{s3_bucket.uri}/photos/a//odd"
    assert {file.size for file in files} == {5}
    assert len({file.etag for file in files}) == 1
    assert names(f"{s3_bucket.uri}/photos/b*") == ["b-c", "b.jpg"]
    assert len(names(s3_bucket.uri)) == 5


def test_listing_gets_over_faults(s3_bucket):
    keys = [f"{index:03}" for index in range(30)]
    for key in keys:
        s3_bucket.put(key, b"x")
    s3_bucket.faults.share = 0.5
    assert names(s3_bucket.uri) == keys


@pytest.mark.parametrize(
    ("place", "message"),
    [("none/", "no key starts with 'none/'"), ("one", "is one file"), ("../gone-x", "there is no such bucket")],
)
def test_places_in_buckets_that_cannot_be_listed(s3_bucket, place, message):
    s3_bucket.put("one", b"x")
    uri = f"s3://{s3_bucket.name}-gone/x" if place.startswith("..") else f"{s3_bucket.uri}/{place}"
    with pytest.raises(InputError, match=message):
        names(uri)


def test_bucket_without_credentials(s3_bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    for place in ("x/", "x/*.jpg"):
        with pytest.raises(InputError, match="there are no credentials"):
            names(f"{s3_bucket.uri}/{place}")
