"""Finding files in folders and buckets: order, links, names that are no text, what cannot be listed."""

import os
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from dxmc_core.errors import InputError
from dxmc_core.images.files import find_files
from dxmc_core.images.selection import Reason, Selection


def names(uri, selection=None):
    return [file.name for file in find_files(str(uri), accept=lambda name: True, selection=selection)]


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


def test_links_that_lead_to_one_another_end(tree):
    for number in range(9):
        folder = tree / "ring" / f"{number}"
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"x")
        for other in range(9):
            (folder / f"to{other}").symlink_to(Path("..") / f"{other}")
    selection = Selection()
    found = names(tree / "ring", selection)
    assert found == sorted(found)
    assert {f"{number}/file" for number in range(9)} <= set(found)
    assert len(found) < 1000
    assert selection.passed_over.counts[Reason.CIRCLE] > 0


def test_link_to_itself_and_file_behind_a_file(tree):
    (tree / "loop.jpg").symlink_to("loop.jpg")
    (tree / "one.jpg").symlink_to("two.jpg")
    (tree / "two.jpg").symlink_to("one.jpg")
    files = {file.name: file for file in find_files(str(tree), accept=lambda name: True)}
    for name in ("loop.jpg", "one.jpg", "two.jpg"):
        assert files[name].problem == "missing: it cannot be found: Too many levels of symbolic links"
    with pytest.raises(InputError, match=r"does not exist|cannot be listed"):
        names(tree / "loop.jpg")


@pytest.fixture
def deep_tree(tree, monkeypatch):
    """With folders 1,100 deep that fit into a path of the system, and as many that do not."""
    for folder in ("d", "long" * 60):
        monkeypatch.chdir(tree)
        for _ in range(1100):
            Path(folder).mkdir()
            os.chdir(folder)
            if folder == "d":
                Path("x.jpg").write_bytes(b"x")
    monkeypatch.undo()
    yield tree
    # shutil.rmtree gives up on it.
    subprocess.run(["rm", "-rf", str(tree)], check=True)


def test_folders_a_thousand_deep_and_beyond_what_the_system_takes(deep_tree):
    selection = Selection()
    found = names(deep_tree, selection)
    assert "d/" * 1100 + "x.jpg" in found
    assert len(found) == 1106
    assert selection.passed_over.counts == {Reason.FOLDER: 1}
    assert "File name too long" in selection.passed_over.lines()[Reason.FOLDER]


def test_pipes_sockets_and_devices_are_passed_over(tree, monkeypatch):
    os.mkfifo(tree / "pipe.jpg")
    (tree / "link.jpg").symlink_to("pipe.jpg")
    (tree / "null.jpg").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tree)  # the path of a socket has to be short
        listener.bind("socket.jpg")
        selection = Selection()
        assert names(tree, selection) == ["a/x/deep", "b-c", "b.jpg", "b/1", "b/2", "c"]
    assert selection.passed_over.counts == {Reason.NOT_A_FILE: 4}
    line = selection.passed_over.lines()[Reason.NOT_A_FILE]
    for kind in ("2 named pipe", "1 device", "1 socket"):
        assert kind in line
    with pytest.raises(InputError, match="is a named pipe; source"):
        names(tree / "pipe.jpg")


def test_folder_that_may_not_be_read_is_said_and_the_others_are_listed():
    """Run as root, which may read everything, it becomes nobody meanwhile."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        folder = Path(place)
        folder.chmod(0o755)
        for name in ("closed", "lost+found", "open"):
            (folder / name).mkdir()
            (folder / name / "a.jpg").write_bytes(b"x")
        for name in ("closed", "lost+found"):
            (folder / name).chmod(0o700 if os.geteuid() == 0 else 0)
        selection = Selection()
        was_root = os.geteuid() == 0
        if was_root:
            os.seteuid(65534)
        try:
            assert names(folder, selection) == ["open/a.jpg"]
            with pytest.raises(InputError, match="may not be listed: Permission denied"):
                names(folder / "closed")
        finally:
            if was_root:
                os.seteuid(0)
            for name in ("closed", "lost+found"):
                (folder / name).chmod(0o700)
    assert selection.passed_over.counts == {Reason.FOLDER: 1, Reason.HIDDEN: 1}
    assert "(closed: Permission denied)" in selection.passed_over.lines()[Reason.FOLDER]


def test_name_that_is_no_text_is_a_reject_with_its_reason(tree):
    with open(os.fsencode(tree) + b"/\xff.jpg", "wb") as file:  # noqa: PTH123 - no Path takes bytes
        file.write(b"x")
    (folder := Path(os.fsdecode(os.fsencode(tree) + b"/caf\xe9"))).mkdir()
    (folder / "a.jpg").write_bytes(b"x")
    files = {file.name: file for file in find_files(str(tree), accept=lambda name: True)}
    for name in (r"\udcff.jpg", r"caf\udce9/a.jpg"):
        assert files[name].problem == "unsupported: the name of the file, or of its folder, is not UTF-8; rename it"
    assert files["b.jpg"].problem is None


def test_name_of_a_folder_is_no_pattern(tmp_path):
    for place in ("[2021] trip/a", "[2021] trip/b", "2 trip/a", "what?/a", "*/a"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "x.jpg").write_bytes(b"x")
    assert names(tmp_path / "[2021] trip") == ["a/x.jpg", "b/x.jpg"]
    assert names(tmp_path / "[2021] trip" / "*" / "*.jpg") == ["a/x.jpg", "b/x.jpg"]
    assert names(tmp_path / "[2021] trip" / "[b]") == []
    assert names(tmp_path / "[2021] trip" / "[b]" / "*") == ["b/x.jpg"]
    assert names(tmp_path / "what?") == names(tmp_path / "*") == ["a/x.jpg"]
    assert names(tmp_path / "[12] trip" / "a" / "*") == ["2 trip/a/x.jpg"]
    with pytest.raises(InputError, match="is no glob: Invalid pattern"):
        names(tmp_path / "a**")


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


def test_names_of_a_bucket_that_look_like_patterns(s3_bucket):
    for key in ("[2021] trip/a/x.jpg", "2 trip/a/x.jpg", "my::folder/x.jpg", "q/x?.jpg", "q/xy.jpg"):
        s3_bucket.put(key, b"x")
    assert names(f"{s3_bucket.uri}/[2021] trip") == ["a/x.jpg"]
    assert names(f"{s3_bucket.uri}/[2021] trip/*/*.jpg") == ["a/x.jpg"]
    assert names(f"{s3_bucket.uri}/[12] trip/*/*.jpg") == ["2 trip/a/x.jpg"]
    assert names(f"{s3_bucket.uri}/my::folder") == ["x.jpg"]
    assert names(f"{s3_bucket.uri}/q/*") == ["x?.jpg", "xy.jpg"]
    with pytest.raises(InputError, match="names no bucket"):
        names("s3://*/x")


def test_objects_that_are_named_like_folders(s3_bucket):
    for key, data in (("p/", b""), ("p/a/", b""), ("p/b/", b"something"), ("p/c.jpg", b"x")):
        s3_bucket.put(key, data)
    selection = Selection()
    assert names(f"{s3_bucket.uri}/p/", selection) == ["c.jpg"]
    assert selection.passed_over.counts == {Reason.NOT_A_FILE: 1}


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
