"""Samples of WebDataset tars: found where they lie, never mixed up, and damage reported."""

import gzip
import io
import os
import tarfile

import pytest

from dxmc_core.errors import InputError
from dxmc_core.images.fetch import FetchImages
from dxmc_core.images.selection import Reason, Selection
from dxmc_core.images.sources import WebDatasetSource
from dxmc_core.images.tar_listing import list_tars


def rows_of(uri, **options):
    tables = list(list_tars(WebDatasetSource(kind="webdataset", uri=str(uri), **options)))
    return [row for table in tables for row in table.to_pylist()]


def fetched(uri, **options):
    """image_id: bytes, or the reason why there are none."""
    source = WebDatasetSource(kind="webdataset", uri=str(uri), **options)
    fetch = FetchImages(source)
    return {
        image_id: file if isinstance(file, bytes) else str(file.reason)
        for table in list_tars(source)
        for image_id, file in zip(table["image_id"].to_pylist(), fetch(table), strict=True)
    }


@pytest.fixture
def shards(tmp_path, tar_of):
    for shard in range(2):
        members = [(".", None), ("./._junk.jpg", b"resource fork")]
        for number in range(3):
            key = f"cats/{shard}{number}"
            members += [
                (f"{key}.cls", str(number).encode()),
                (f"{key}.jpg", f"jpeg {shard}{number}".encode()),
                (f"{key}.json", b'{"caption": "a cat", "score": 3}'),
            ]
        (tmp_path / f"shard-{shard:03}.tar").write_bytes(tar_of(members))
    return tmp_path


@pytest.mark.parametrize("place", ["", "/*.tar", "/shard-{000..001}.tar", "/shard-{000,001}.tar"])
def test_samples_are_fetched_by_their_keys(shards, place):
    expected = {f"cats/{shard}{number}": f"jpeg {shard}{number}".encode() for shard in range(2) for number in range(3)}
    assert fetched(f"{shards}{place}") == expected


@pytest.mark.parametrize(
    ("label_from", "expected"),
    [("cls", "2"), ("json.caption", "a cat"), ("json.score", "3"), ("json.nothing", None), ("txt", None),
     ("parent_folder", "cats"), (None, None)],
)  # fmt: skip
def test_labels(shards, label_from, expected):
    assert rows_of(shards / "shard-001.tar", label_from=label_from)[-1]["label"] == expected


def test_image_id_may_carry_the_shard(shards):
    rows = rows_of(shards, image_id="shard_and_key")
    assert rows[0]["image_id"] == "shard-000/cats/00"
    assert rows[-1]["image_id"] == "shard-001/cats/12"


def test_key_that_comes_back_is_reported_and_not_mixed_up(tmp_path, caplog, tar_of):
    members = [
        ("a.jpg", b"first a"),
        ("b.jpg", b"b"),
        ("a.txt", b"label of which a?"),
        ("a.jpg", b"second a"),
        ("c.jpg", b"c"),
    ]
    (tmp_path / "x.tar").write_bytes(tar_of(members))
    rows = {row["image_id"]: row for row in rows_of(tmp_path / "x.tar", label_from="txt")}
    assert len(rows) == 4
    assert rows["a"]["label"] is None
    found = fetched(tmp_path / "x.tar")
    assert found.pop("a") == b"first a"
    assert found.pop("b") == b"b"
    assert found.pop("c") == b"c"
    assert list(found.values()) == ["duplicate_key"]
    assert "1 keys come back after other keys (a)" in caplog.text


def test_member_that_is_there_twice_in_a_row_is_a_second_sample(tmp_path, tar_of):
    (tmp_path / "x.tar").write_bytes(tar_of([("a.jpg", b"one"), ("a.jpg", b"two"), ("b.jpg", b"b")]))
    assert sorted(map(str, fetched(tmp_path / "x.tar").values())) == ["b'b'", "b'one'", "duplicate_key"]


def test_sample_without_image_and_choice_of_image(tmp_path, tar_of):
    members = [("a.txt", b"alone"), ("b.depth.png", b"depth"), ("b.png", b"plain"), ("c.seg.png", b"only this")]
    (tmp_path / "x.tar").write_bytes(tar_of(members))
    assert fetched(tmp_path / "x.tar") == {"a": "missing", "b": b"plain", "c": b"only this"}


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(tmp_path, format, tar_of):
    name = "ünïcode/" + "long" * 60
    (tmp_path / "x.tar").write_bytes(tar_of([(f"{name}.jpg", b"x")], format=format))
    assert fetched(tmp_path / "x.tar") == {name: b"x"}


def test_cut_and_damaged_tars_lose_nothing_silently(tmp_path, tar_of):
    whole = tar_of([(f"{number}.jpg", bytes([number]) * 1000) for number in range(6)])
    (tmp_path / "cut.tar").write_bytes(whole[: 3 * 1536 + 512 + 100])
    (tmp_path / "hole.tar").write_bytes(whole[: 2 * 1536] + b"\xff" * 512 + whole[2 * 1536 + 512 :])
    (tmp_path / "text.tar").write_bytes(b"this is no tar at all" * 100)
    found = fetched(tmp_path, image_id="shard_and_key")
    cut = {name: value for name, value in found.items() if name.startswith("cut")}
    assert [type(value) for value in cut.values()] == [bytes, bytes, bytes, str, str]
    assert set(list(cut.values())[3:]) == {"truncated"}
    hole = {name: value for name, value in found.items() if name.startswith("hole")}
    assert [type(value) for value in hole.values()] == [bytes, bytes, str]
    assert hole["hole.tar@3072"] == "unreadable"
    assert found["text.tar@0"] == "unreadable"


def test_tar_without_end_marker_is_whole(tmp_path, tar_of):
    whole = tar_of([("a.jpg", b"x" * 512)])
    (tmp_path / "x.tar").write_bytes(whole[:1024])
    assert fetched(tmp_path / "x.tar") == {"a": b"x" * 512}


@pytest.mark.parametrize(
    ("name", "message"),
    [("x.tar.gz", "is compressed"), ("*.tgz", "is compressed"), ("none", "does not exist"), ("empty", "no .tar files")],
)
def test_unusable_places(tmp_path, name, message):
    (tmp_path / "x.tar.gz").write_bytes(b"x")
    (tmp_path / "y.tgz").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        rows_of(tmp_path / name)


def test_label_of_an_unknown_kind(shards):
    with pytest.raises(InputError, match="labels come from parent_folder, cls"):
        rows_of(shards, label_from="caption")


def test_members_are_fetched_from_a_bucket_by_ranges(s3_bucket, picture, tar_of):
    members = [(f"{number:03}.{kind}", content) for number in range(40)
               for kind, content in (("png", picture(number)), ("txt", b"x" * 300))]  # fmt: skip
    s3_bucket.put("shards/a.tar", tar_of(members))
    assert fetched(f"{s3_bucket.uri}/shards/") == {f"{number:03}": picture(number) for number in range(40)}
    s3_bucket.faults.share = 0.6
    while not s3_bucket.faults.counts:  # a few requests may all be let through
        assert fetched(f"{s3_bucket.uri}/shards/") == {f"{number:03}": picture(number) for number in range(40)}


def test_tar_that_shrank_since_it_was_listed(s3_bucket, tar_of):
    data = tar_of([("a.jpg", b"a" * 5000), ("b.jpg", b"b" * 5000)])
    s3_bucket.put("x.tar", data)
    source = WebDatasetSource(kind="webdataset", uri=f"{s3_bucket.uri}/x.tar")
    (table,) = list_tars(source)
    s3_bucket.put("x.tar", data[:2000])
    assert {str(file.reason) for file in FetchImages(source)(table)} == {"truncated"}


def test_name_that_is_no_unicode_text(tmp_path, tar_of):
    (tmp_path / "x.tar").write_bytes(tar_of([("a\udcff.png", b"x"), ("b.png", b"y")], format=tarfile.GNU_FORMAT))
    assert fetched(tmp_path / "x.tar") == {r"a\udcff": b"x", "b": b"y"}


def counted(uri, **options):
    """What `fetched` returns, and what was passed over."""
    selection = Selection(**options)
    tables = list(list_tars(WebDatasetSource(kind="webdataset", uri=str(uri)), selection))
    return [name for table in tables for name in table["image_id"].to_pylist()], selection.passed_over.counts


def tar_with(*members) -> bytes:
    """A tar of (name, content or keywords of its header)."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
                continue
            for field, value in content.items():
                setattr(info, field, value)
            archive.addfile(info)
    return sink.getvalue()


def test_dots_and_numbers_in_names_do_not_fold_samples(tmp_path, tar_of):
    names = [
        "2021.05.01.jpg",
        "2021.05.02.jpg",
        "cat.0.jpg",
        "dog.0.jpg",
        "cat.1.jpg",
        "com.example.42.png",
        "v1.2/a.jpg",
    ]
    (tmp_path / "x.tar").write_bytes(tar_of([(name, name.encode()) for name in names]))
    assert fetched(tmp_path / "x.tar") == {name.rsplit(".", 1)[0]: name.encode() for name in names}


def test_labels_are_found_beside_names_with_dots(tmp_path, tar_of):
    (tmp_path / "x.tar").write_bytes(tar_of([("cat.0.jpg", b"0"), ("cat.0.cls", b"3"), ("cat.1.jpg", b"1")]))
    assert [(row["image_id"], row["label"]) for row in rows_of(tmp_path / "x.tar", label_from="cls")] == [
        ("cat.0", "3"), ("cat.1", None),
    ]  # fmt: skip


def test_further_images_of_a_sample_are_counted(tmp_path, tar_of):
    members = [("a.jpg", b"1"), ("a.png", b"2"), ("a.depth.png", b"3"), ("b.seg.png", b"4"), ("b.rgb.png", b"5")]
    (tmp_path / "x.tar").write_bytes(tar_of(members))
    assert fetched(tmp_path / "x.tar") == {"a": b"1", "b": b"4"}
    assert counted(tmp_path / "x.tar") == (["a", "b"], {Reason.FURTHER_IMAGE: 3})


def test_names_as_downloads_have_them(tmp_path, tar_of):
    names = {"a.JPG.1": "a.JPG.1", "b.jpg?w=300": "b", "c.jpeg_large": "c", "d/0a1b2c": "d/0a1b2c",
             "2021.05.03": "2021.05.03", "e.pnm": "e", "f.mpo": "f"}  # fmt: skip
    (tmp_path / "x.tar").write_bytes(tar_of([(name, name.encode()) for name in names]))
    assert fetched(tmp_path / "x.tar") == {key: name.encode() for name, key in names.items()}
    (tmp_path / "x.tar").write_bytes(tar_of([("a.dat", b"1"), ("b.txt", b"2")]))
    assert fetched(tmp_path / "x.tar") == {"a": "missing", "b": "missing"}
    assert fetched(tmp_path / "x.tar", suffixes=["dat"]) == {"a": b"1", "b": "missing"}


def test_content_decides_what_an_image_is_on_request(tmp_path, tar_of, picture):
    (tmp_path / "x.tar").write_bytes(tar_of([("a.dat", picture(1)), ("a.txt", b"a cat"), ("b.dat", b"no picture")]))
    assert fetched(tmp_path / "x.tar", suffixes=["*"]) == {"a": picture(1), "b": "missing"}


def test_links_are_what_they_lead_to(tmp_path):
    link, hard = {"type": tarfile.SYMTYPE}, {"type": tarfile.LNKTYPE}
    data = tar_with(
        ("./pool/0a1b", b"first"), ("x/b.jpg", b"second"),
        ("c.jpg", {**hard, "linkname": "./pool/0a1b"}), ("x/d.jpg", {**link, "linkname": "b.jpg"}),
        ("x/e.jpg", {**link, "linkname": "../c.jpg"}), ("f.jpg", {**link, "linkname": "later.jpg"}),
        ("g.jpg", {**link, "linkname": "/etc/passwd"}), ("h.jpg", {**link, "linkname": "h.jpg"}),
        ("i.jpg", {**hard, "linkname": "../../x/b.jpg"}), ("later.jpg", b"third"),
    )  # fmt: skip
    (tmp_path / "x.tar").write_bytes(data)
    assert fetched(tmp_path / "x.tar") == {
        "pool/0a1b": b"first", "x/b": b"second", "c": b"first", "x/d": b"second", "x/e": b"first", "f": "missing",
        "g": "missing", "h": "missing", "i": "missing", "later": b"third",
    }  # fmt: skip


@pytest.mark.parametrize("num_zeros", [0, 512, 1024, 10240, 300_032])
def test_tars_behind_one_another(tmp_path, tar_of, num_zeros):
    first, second = tar_of([("a.jpg", b"1"), ("b.jpg", b"2")]), tar_of([("c.jpg", b"3")], format=tarfile.GNU_FORMAT)
    (tmp_path / "x.tar").write_bytes(
        bytes(num_zeros) + first.rstrip(b"\0").ljust(2560, b"\0") + bytes(num_zeros) + second
    )
    assert fetched(tmp_path / "x.tar") == {"a": b"1", "b": b"2", "c": b"3"}


def test_what_stands_behind_a_tar_and_is_none_is_a_reject(tmp_path, tar_of):
    whole = tar_of([("a.jpg", b"1")])
    (tmp_path / "x.tar").write_bytes(whole + b"rubbish" * 100)
    (tmp_path / "y.tar").write_bytes(whole + tar_of([("b.jpg", b"2"), ("c.jpg", b"3" * 2000)])[:2048])
    found = fetched(tmp_path, image_id="shard_and_key")
    assert found == {
        "x/a": b"1", f"x.tar@{len(whole)}": "unreadable", "y/a": b"1", "y/b": b"2", "y/c": "truncated",
        f"y.tar@{len(whole) + 3536}": "truncated",
    }  # fmt: skip


def test_members_that_are_no_files_are_counted(tmp_path):
    data = tar_with(
        ("a.jpg", b"1"), ("pipe.jpg", {"type": tarfile.FIFOTYPE}), ("device.jpg", {"type": tarfile.CHRTYPE}),
        ("label.jpg", {"type": b"V"}), ("folder.jpg", {"type": tarfile.DIRTYPE}),
        ("__MACOSX/._a.jpg", b"x"), (".git/b.jpg", b"x"), ("b.jpg", b"2"),
    )  # fmt: skip
    (tmp_path / "x.tar").write_bytes(data)
    assert counted(tmp_path / "x.tar") == (["a", "b"], {Reason.MEMBER: 3, Reason.HIDDEN: 2})
    assert counted(tmp_path / "x.tar", include=["*", ".git"]) == (
        ["a", ".git/b", "b"], {Reason.MEMBER: 3, Reason.HIDDEN: 1}
    )  # fmt: skip


def sparse_member(version: str) -> bytes:
    """A picture of 4,096 zeros, of which the tar stores none, and a plain one behind it."""
    headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "s.jpg",
        "GNU.sparse.realsize": "4096",
    }
    content = b"1\n4096\n0\n".ljust(512, b"\0")
    if version == "0.1":
        headers = {"GNU.sparse.map": "4096,0", "GNU.sparse.size": "4096", "GNU.sparse.name": "s.jpg"}
        content = b""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("GNUSparseFile.0/s.jpg")
        info.pax_headers, info.size = headers, len(content)
        archive.addfile(info, io.BytesIO(content))
        info = tarfile.TarInfo("t.jpg")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"t"))
    return sink.getvalue()


@pytest.mark.parametrize("version", ["0.1", "1.0"])
def test_sparse_members_are_rejected_and_not_read_as_what_follows(tmp_path, version):
    (tmp_path / "x.tar").write_bytes(sparse_member(version))
    assert fetched(tmp_path / "x.tar") == {"s": "unsupported", "t": b"t"}


def test_headers_that_were_made_to_hurt(tmp_path, tar_of):
    whole = tar_of([("a.jpg", b"1"), ("b.jpg", b"2")], format=tarfile.GNU_FORMAT)
    header = bytearray(whole[1024:1536])
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # a size of -512, in the base-256 form
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    (tmp_path / "negative.tar").write_bytes(whole[:1024] + bytes(header) + whole[1536:])
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 1
    many = (long_name.tobuf(tarfile.GNU_FORMAT) + b"x".ljust(512, b"\0")) * 3000
    (tmp_path / "nested.tar").write_bytes(whole[:1024] + many + whole[1024:])
    (tmp_path / "packed.tar").write_bytes(gzip.compress(whole))
    (tmp_path / "empty.tar").touch()
    found = fetched(tmp_path, image_id="shard_and_key")
    assert found == {
        "negative/a": b"1", "negative.tar@1024": "unreadable", "nested/a": b"1", "nested.tar@513": "truncated",
        "packed.tar@0": "unsupported", "empty.tar@0": "empty",
    }  # fmt: skip


def test_names_of_tars_are_only_names(tmp_path, tar_of):
    for number, name in enumerate(
        ["[2021] trip/0.tar", "{a,b}/0.tar", "my::folder/0.tar", "x{0..1}.tar", "t?.tar", "*.tar"]
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(tar_of([(f"{number}.jpg", name.encode())]))
        assert fetched(tmp_path / name) == {f"{number}": name.encode()}
    assert fetched(tmp_path / "[2021] trip") == {"0": b"[2021] trip/0.tar"}
    assert fetched(tmp_path / "{a,b}" / "{0..0}.tar") == {"1": b"{a,b}/0.tar"}


def test_what_lies_beside_the_tars_is_counted(tmp_path, tar_of, caplog):
    for name in ("a.tar", "B.TAR", ".hidden/c.tar", "d.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(tar_of([(f"{name}/x.jpg", b"x")]))
    (tmp_path / "a.json").touch()
    ids, passed_over = counted(tmp_path, exclude=["d.tar"])
    assert sorted(ids) == ["B.TAR/x", "a.tar/x"]
    assert passed_over == {Reason.HIDDEN: 1, Reason.PATTERN: 1, Reason.OTHER_ENDING: 1}


def test_patterns_are_about_keys_and_tars(shards):
    assert counted(shards, include=["cats/?1"]) == (["cats/01", "cats/11"], {Reason.PATTERN: 4, Reason.HIDDEN: 2})
    assert counted(shards, include=["shard-001.tar"], exclude=["11"]) == (
        ["cats/10", "cats/12"],
        {Reason.PATTERN: 4, Reason.HIDDEN: 2},
    )


def test_tar_that_is_no_file_is_a_reject(tmp_path, tar_of):
    (tmp_path / "a.tar").write_bytes(tar_of([("a.jpg", b"x")]))
    (tmp_path / "loop.tar").symlink_to("loop.tar")
    (tmp_path / "gone.tar").symlink_to("nowhere")
    (tmp_path / "folder.tar").mkdir()
    os.mkfifo(tmp_path / "pipe.tar")
    assert fetched(tmp_path) == {"a": b"x", "loop.tar@0": "missing", "gone.tar@0": "missing"}
    with pytest.raises(InputError, match="is a named pipe, expected a file"):
        rows_of(tmp_path / "pipe.tar")
