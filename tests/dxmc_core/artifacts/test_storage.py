"""Files of a folder, wherever it lies: what is there now is what counts."""

import errno
import http.server
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dxmc_core.artifacts.storage import Storage, read_user_file, stat_file, write_output
from dxmc_core.errors import DxmcError, InputError

_WRITE = "import sys; from dxmc_core.artifacts.storage import Storage; Storage(sys.argv[1]).write_bytes('new', b'new')"


def write_in_another_process(uri: str) -> None:
    subprocess.run([sys.executable, "-c", _WRITE, uri], check=True)


@pytest.fixture(params=["local", "s3"])
def storage(request, tmp_path):
    if request.param == "local":
        return Storage(str(tmp_path))
    return Storage(f"{request.getfixturevalue('s3_bucket').uri}/run")


def test_what_others_write_after_a_listing_is_read(storage):
    storage.write_bytes("old", b"old")
    assert storage.list_files() == {"old": 3}
    write_in_another_process(storage.uri)
    assert storage.exists("new")
    assert storage.read_bytes("new") == b"new"
    assert storage.list_files() == {"new": 3, "old": 3}


def test_what_was_deleted_after_a_listing_is_gone(storage):
    storage.write_bytes("old", b"old")
    assert storage.list_files("") == {"old": 3}
    Storage(f"{storage.uri}/").delete("old")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("old")
    assert storage.list_files() == {}


def test_write_that_a_service_keeps_breaking_off_is_one_clear_error(s3_bucket):
    s3_bucket.faults.always["run/file"] = "reset"
    with pytest.raises(DxmcError, match=r"cannot write s3://.*/run/file: .*run again"):
        Storage(f"{s3_bucket.uri}/run").write_bytes("file", b"x")


def test_file_is_replaced_only_while_it_is_what_it_was(storage):
    assert not storage.replace_bytes("file", b"two", expected=b"one")
    storage.write_bytes("file", b"one")
    assert storage.replace_bytes("file", b"two", expected=b"one")
    assert not storage.replace_bytes("file", b"three", expected=b"one")
    assert storage.read_bytes("file") == b"two"


def test_of_writers_that_replace_at_once_one_wins(storage):
    storage.write_bytes("file", b"before")
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda i: storage.replace_bytes("file", b"%d" % i, expected=b"before"), range(8)))
    assert won.count(True) == 1
    assert storage.read_bytes("file") == b"%d" % won.index(True)


def test_folders_are_listed_copied_to_and_removed(storage):
    assert storage.list_folders("runs") == []
    storage.write_bytes("runs/one/a/file", b"x")
    storage.write_bytes("runs/two/file", b"y")
    storage.write_bytes("runs/loose", b"z")
    assert sorted(storage.list_folders("runs")) == ["one", "two"]
    storage.child("runs/one").copy_file("a/file", storage.child("copy/deep"))
    assert storage.read_bytes("copy/deep/a/file") == b"x"
    storage.delete_files(["runs/one/a/file"])
    storage.delete_files(["runs/one/a/file"])
    assert storage.list_folders("runs") == ["two"]
    assert storage.list_files("runs") == {"runs/loose": 1, "runs/two/file": 1}


class _WithoutLength(http.server.BaseHTTPRequestHandler):
    """Answers with a file of whose length and version it says nothing, as servers that make their pages do."""

    content = b"dog\ncat\n"

    def do_HEAD(self):
        self.send_response(200 if self.path == "/nouns.txt" else 404)
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        if self.path == "/nouns.txt":
            self.wfile.write(self.content)

    def log_message(self, *_):
        pass


def test_file_of_a_server_that_says_no_length(monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _WithoutLength) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}/nouns.txt"
        assert read_user_file(uri) == b"dog\ncat\n"
        before = stat_file(uri)
        assert (before.uri, before.size) == (uri, 8)
        assert stat_file(uri) == before
        monkeypatch.setattr(_WithoutLength, "content", b"dog\ncow\n")
        assert stat_file(uri).etag != before.etag
        for refused in (read_user_file, stat_file):
            with pytest.raises(InputError, match=f"{server.server_port}/none.txt"):
                refused(uri.replace("nouns", "none"))
        server.shutdown()


@pytest.mark.parametrize("refused", [read_user_file, stat_file])
def test_what_is_no_file_of_a_person_s_is_one_line(tmp_path, refused):
    os.mkfifo(tmp_path / "pipe")
    places = {
        str(tmp_path): "is a folder, expected a file",
        str(tmp_path / "pipe"): "a named pipe, expected a file",
        "/dev/zero": "is a device, expected a file",
        str(tmp_path / "none"): "none",
        str(tmp_path / ("x" * 300)): "File name too long",
        str(tmp_path / "a\0b"): "null",
        "gs://bucket/key": "gcsfs",
        "nope://bucket/key": "Protocol not known",
        "http://127.0.0.1:1/x": "127.0.0.1:1",
    }
    for uri, message in places.items():
        with pytest.raises(DxmcError, match=message) as caught:
            refused(uri)
        assert "\n" not in str(caught.value)


def test_pages_are_handed_out_as_pages(s3_bucket):
    Storage(f"{s3_bucket.uri}/run").write_bytes("report/index.html", b"<!doctype html>")
    write_output(f"{s3_bucket.uri}/copy.html", b"<!doctype html>", mark=b"doctype")
    for key in ("run/report/index.html", "copy.html"):
        head = s3_bucket.client.head_object(Bucket=s3_bucket.name, Key=key)
        assert head["ContentType"] == "text/html; charset=utf-8"


def test_keys_that_stand_for_folders_are_no_files_and_go_with_the_last_of_them(s3_bucket):
    """pyarrow makes them for Ray Train, and consoles for people."""
    storage = Storage(f"{s3_bucket.uri}/run")
    for key in ("run/", "run/a/", "run/a/b/", "run/c/", "run/kept/"):
        s3_bucket.put(key, b"")
    for name in ("a/b/own", "c/own", "c/theirs"):
        storage.write_bytes(name, b"x")
    assert set(storage.list_files()) == {"a/b/own", "c/own", "c/theirs"}
    storage.delete_files(["a/b/own", "c/own"])
    keys = [entry["Key"] for entry in s3_bucket.client.list_objects_v2(Bucket=s3_bucket.name)["Contents"]]
    assert keys == ["run/", "run/c/", "run/c/theirs", "run/kept/"]


def test_a_large_file_is_written_and_read_by_its_path(storage):
    with storage.writing("folder/large") as path:
        path.write_bytes(b"first part, ")
        assert not storage.exists("folder/large")
        with path.open("ab") as file:
            file.write(b"second part")
    assert storage.read_bytes("folder/large") == b"first part, second part"
    with storage.reading("folder/large") as path:
        assert path.read_bytes() == b"first part, second part"
    with pytest.raises(FileNotFoundError), storage.reading("folder/none") as path:
        path.read_bytes()


def test_a_large_file_that_is_not_finished_leaves_what_was_there(tmp_path):
    storage = Storage(str(tmp_path))
    storage.write_bytes("large", b"before")

    def stop_half_way():
        with storage.writing("large") as path:
            path.write_bytes(b"half of it")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_half_way()
    assert storage.list_files() == {"large": 6}


def test_a_disk_that_is_full_is_told_plainly(tmp_path):
    with pytest.raises(InputError, match="no space left to write"), Storage(str(tmp_path)).writing("large"):
        raise OSError(errno.ENOSPC, "No space left on device")
