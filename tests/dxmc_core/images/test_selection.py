"""What is taken of a source: endings, patterns, hidden and service folders; and what is said of the rest."""

import logging

import pyarrow as pa
import pytest
from pydantic import TypeAdapter, ValidationError

from dxmc_core.images.catalog import list_source
from dxmc_core.images.selection import PassedOver, Reason, ending_of, hidden_part, may_be_image
from dxmc_core.images.sources import SourceConfig


def source_of(uri, **values):
    return TypeAdapter(SourceConfig).validate_python({"uri": str(uri), "kind": "images", **values})


def ids_of(uri, **values):
    return pa.concat_tables(list_source(source_of(uri, **values)).tables())["image_id"].to_pylist()


@pytest.fixture
def tree(tmp_path, picture):
    """A folder with these files, which all hold a picture."""

    def make(*names: str):
        for number, name in enumerate(names):
            path = tmp_path / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(number))
        return tmp_path / "tree"

    return make


@pytest.mark.parametrize(
    ("name", "ending"),
    [("a/b.JPG", ".jpg"), ("a.b/c", ""), ("photo.jpg?w=1.5", ".jpg"), ("photo.jpg.1", ".jpg"), ("2021.05.03", ""),
     ("photo.jpeg_large", ".jpeg"), ("scan.jpg@1280w", ".jpg"), ("photo.jpg!thumb", ".jpg"),
     ("photo.jpg.json", ".json"),
     ("photo.jpg%3Fw=3", ".jpg"), ("Screenshot 10.15.22", ""), ("Mr. Smith", ""), ("com.example.42", ".example"),
     ("sha.d41d8cd98f00b204e9", ""), ("notes.txt~", ".txt"), ("style.css?ver=5.1", ".css")],
)  # fmt: skip
def test_ending_is_the_last_word_after_a_dot(name, ending):
    assert ending_of(name) == ending


@pytest.mark.parametrize(
    "name",
    ["x.pnm", "x.PBM", "x.mpo", "x.j2k", "x.jpf", "x.jpx", "x.apng", "x.dib", "x.hif", "IMG_1.JPG.1", "cat.jpg?w=200",
     "thumb.php?src=cat.jpg", "x.jpeg_large", "x.jpg:large", "photo.jpg (1)", "2021.05.03", "0a1b2c"],
)  # fmt: skip
def test_names_of_images(name):
    assert may_be_image(name)


@pytest.mark.parametrize("name", ["photo.jpg.json", "a.txt", "index.html?C=N", "com.example.42", "x.jpg.part", "v.mp4"])
def test_names_of_other_files(name):
    assert not may_be_image(name)


@pytest.mark.parametrize(
    ("name", "part"),
    [(".git/objects/ab", ".git"), ("a/.hidden.jpg", ".hidden.jpg"), ("a/@eaDir/x.jpg/T.jpg", "@eaDir"),
     ("#recycle/x", "#recycle"), (".Trash-1000/files/x", ".Trash-1000"), ("$RECYCLE.BIN/x", "$RECYCLE.BIN"),
     ("__MACOSX/._x.jpg", "__MACOSX"), ("lost+found/1", "lost+found"), ("../../x.jpg", None), ("a..b/...", None),
     ("recycle/x.jpg", None)],
)  # fmt: skip
def test_hidden_and_service_names(name, part):
    assert hidden_part(name) == part


@pytest.mark.parametrize(
    ("pattern", "taken"),
    [
        ("*.gif", ["a.gif", "x/b.gif", "x/y/c.gif"]),
        ("x", ["x/b.gif", "x/d.jpg", "x/y/c.gif"]),
        ("x/*", ["x/b.gif", "x/d.jpg", "x/y/c.gif"]),
        ("x/*.gif", ["x/b.gif"]),
        ("x/**/*.gif", ["x/b.gif", "x/y/c.gif"]),
        ("y", ["x/y/c.gif"]),
        ("/y", []),
        ("/x/y", ["x/y/c.gif"]),
        ("x/y/", ["x/y/c.gif"]),
        ("**/y", ["x/y/c.gif"]),
        ("a.gif/", []),
        ("[ad].*", ["a.gif", "x/d.jpg"]),
        ("?.jpg", ["x/d.jpg"]),
        ("A.gif", []),
    ],
)
def test_patterns(tree, pattern, taken):
    names = ["a.gif", "x/b.gif", "x/d.jpg", "x/y/c.gif"]
    folder = tree(*names, "z.png")
    rest = [name for name in names if name not in taken]
    assert ids_of(folder, exclude=[pattern]) == [*rest, "z.png"]
    assert ids_of(folder, include=[pattern, "z.png"]) == [*taken, "z.png"]
    assert ids_of(folder, include=[pattern, "z.png"], exclude=[pattern]) == ["z.png"]


def test_hidden_and_service_folders_are_left_out_counted_and_taken_where_they_are_named(tree, caplog):
    caplog.set_level(logging.INFO)
    hidden = [
        ".git/lfs/objects/ab/cd",
        ".thumbnails/a.png",
        "data/@eaDir/a.jpg/THUMB.jpg",
        "data/.hidden.jpg",
        "lost+found/1",
    ]
    folder = tree("data/a.jpg", "data/b.jpg", *hidden)
    listing = list_source(source_of(folder))
    assert listing.num_rows == 2
    assert listing.passed_over == {Reason.HIDDEN: 5}
    [line] = [record.message for record in caplog.records if "passed over" in record.message]
    assert "5 hidden files, and files in hidden or service folders" in line
    assert "1 @eaDir" in line
    assert ids_of(folder, include=["*", ".thumbnails", "@eaDir"]) == [
        ".thumbnails/a.png", "data/@eaDir/a.jpg/THUMB.jpg", "data/a.jpg", "data/b.jpg",
    ]  # fmt: skip
    assert ids_of(f"{folder}/.thumbnails") == ["a.png"]
    assert ids_of(f"{folder}/**/.thumbnails/*") == [".thumbnails/a.png"]


def test_hidden_keys_of_a_bucket(s3_bucket):
    for key in ("p/a.jpg", "p/.git/b.jpg", "p/x/@eaDir/c.jpg", "p/x/d.jpg", "p/x/e.dat"):
        s3_bucket.put(key, b"x")
    listing = list_source(source_of(f"{s3_bucket.uri}/p/", exclude=["x/d.jpg"]))
    assert listing.num_rows == 1
    assert listing.passed_over == {Reason.HIDDEN: 2, Reason.PATTERN: 1, Reason.ENDING: 1}
    assert ids_of(f"{s3_bucket.uri}/p/", include="*.jpg", suffixes="dat") == ["a.jpg", "x/d.jpg"]


def test_files_that_do_not_end_like_images_are_said_and_can_be_taken(tree, caplog):
    folder = tree("a.jpg", "b.dat", "c.dat", "d.xyz", "com.example.42")
    (folder / "notes.txt").write_text("no picture")
    assert ids_of(folder) == ["a.jpg"]
    [line] = caplog.messages
    assert "passed over: 5 files that do not end like images (2 .dat, " in line
    assert "source.suffixes" in line
    assert ids_of(folder, suffixes=["DAT", ".example"]) == ["a.jpg", "b.dat", "c.dat", "com.example.42"]
    caplog.clear()
    listing = list_source(source_of(folder, suffixes="*"))
    assert listing.num_rows == 5
    assert listing.passed_over == {Reason.CONTENT: 1}
    assert "1 files that do not begin like images (1 .txt)" in caplog.text


def test_content_decides_in_a_bucket_too(s3_bucket, picture):
    s3_bucket.put("p/a.dat", picture(1))
    s3_bucket.put("p/b.dat", b"<html>")
    assert ids_of(f"{s3_bucket.uri}/p", suffixes=["*"]) == ["a.dat"]


def test_patterns_of_a_list_are_about_its_ids(tmp_path):
    (tmp_path / "list.csv").write_text("uri,image_id\nx/a.jpg,1\nx/b.jpg,2\n.hidden/c.jpg,3\n")
    assert ids_of(tmp_path / "list.csv", exclude="2") == ["1", "3"]
    (tmp_path / "list.txt").write_text("x/a.jpg\ny/b.jpg\n.hidden/c.jpg\n")
    assert ids_of(tmp_path / "list.txt", exclude="x") == ["y/b.jpg", ".hidden/c.jpg"]


def test_what_is_left_out_is_in_the_digest_and_not_in_the_identity(tree):
    folder = tree("a.jpg", "b.jpg", "c.gif")
    whole = list_source(source_of(folder)).digest
    assert list_source(source_of(folder, exclude="nothing.png", suffixes="dat")).digest == whole
    without = list_source(source_of(folder, exclude="c.gif")).digest
    assert without != whole
    (folder / "c.gif").unlink()
    assert list_source(source_of(folder)).digest == without


@pytest.mark.parametrize(
    "values", [{"exclude": ["a**"]}, {"include": [""]}, {"exclude": "/"}, {"suffixes": "*.dat"}, {"suffixes": [""]}]
)
def test_unusable_settings(values):
    with pytest.raises(ValidationError, match=r"no pattern|expected endings"):
        source_of("x", **values)


def test_many_endings_are_shown_in_one_short_line():
    passed_over = PassedOver()
    for number in range(2000):
        passed_over.add(Reason.ENDING, f".a{number % 1500}")
    [line] = passed_over.lines().values()
    assert "2000 files" in line
    assert "others" in line
    assert len(line) < 300
    assert passed_over.counts == {Reason.ENDING: 2000}
