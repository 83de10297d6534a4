"""Files of a folder, wherever it lies: what is there now is what counts."""

import subprocess
import sys

import pytest

from dxmc_core.artifacts.storage import Storage
from dxmc_core.errors import DxmcError

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
