"""Expired credentials, a wrong clock, no bucket, no permission, a read-only folder, a full disk: one line each.

After it nothing is in the way of the same command.
"""

import errno
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from s3fs import S3FileSystem

from dxmc_core.artifacts import storage
from dxmc_core.artifacts.lease import LOCK_NAME
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.storage import Storage
from dxmc_core.errors import InputError
from dxmc_core.images.objects import fetch
from ray_jobs.cli import main

_NOBODY = 65534

REFUSALS = {
    "expired": "the credentials have expired; renew them",
    "skewed": "the clock of this machine differs too much",
    "no_bucket": "there is no such bucket",
    "denied": "Access Denied",
}


def last_line_of(capsys, *arguments: str, code: int = 2) -> str:
    """Run `dxmc`; the one line that it ends with."""
    with pytest.raises(SystemExit) as exit_info:
        main(list(arguments))
    printed = capsys.readouterr().err
    assert exit_info.value.code == code, printed
    assert "Traceback" not in printed
    [line] = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert printed.splitlines()[-1] == line
    return line


@pytest.fixture
def config(tmp_path):
    """Writes a configuration; its path."""

    def write(*, run_dir: str, source: str) -> str:
        path = tmp_path / "run.yaml"
        values = {"run_dir": run_dir, "source": {"uri": source}, "encoder": {"kind": "offline"}}
        path.write_text(yaml.safe_dump(values))
        return str(path)

    return write


@pytest.mark.parametrize("kind", REFUSALS)
def test_run_directory_in_a_bucket_that_refuses(s3_bucket, config, tmp_path, capsys, kind):
    path = config(run_dir=f"{s3_bucket.uri}/run", source=str(tmp_path))
    s3_bucket.faults.every = kind
    line = last_line_of(capsys, "run", "--config", path)
    assert REFUSALS[kind] in line
    assert s3_bucket.uri in line
    s3_bucket.faults.every = None
    assert not Storage(f"{s3_bucket.uri}/run").list_files()
    with RunDir.at(f"{s3_bucket.uri}/run").locked():
        pass


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize("source", ["photos/", "photos/*.png"])
def test_source_in_a_bucket_that_refuses(s3_bucket, config, tmp_path, capsys, kind, source):
    path = config(run_dir=str(tmp_path / "run"), source=f"{s3_bucket.uri}/{source}")
    s3_bucket.faults.every = kind
    line = last_line_of(capsys, "run", "--config", path)
    assert REFUSALS[kind] in line
    assert not (tmp_path / "run" / LOCK_NAME).exists()


@pytest.mark.parametrize("kind", REFUSALS)
def test_list_in_a_bucket_that_refuses(s3_bucket, config, tmp_path, capsys, kind):
    """S3 answers the question for a list's size without a body, so the reason is known by a number only."""
    path = config(run_dir=str(tmp_path / "run"), source=f"{s3_bucket.uri}/list.csv")
    s3_bucket.faults.every = kind
    assert f"cannot read the list {s3_bucket.uri}/list.csv: " in last_line_of(capsys, "run", "--config", path)
    assert not (tmp_path / "run" / LOCK_NAME).exists()


@pytest.mark.parametrize("kind", ["expired", "skewed"])
def test_what_tells_nothing_of_an_image_rejects_none(s3_bucket, kind):
    s3_bucket.put("image", b"x")
    s3_bucket.faults.every = kind
    with pytest.raises(InputError, match=REFUSALS[kind]):
        fetch(f"{s3_bucket.uri}/image")


def test_refusal_without_a_reason_names_the_commonest(s3_bucket):
    s3_bucket.faults.every = "expired"
    with pytest.raises(OSError, match="Bad Request") as raised:
        Storage(f"{s3_bucket.uri}/run").exists("file")
    assert "Bad Request); mostly the credentials have expired" in str(storage.storage_failure(raised.value))


def test_no_credentials(s3_bucket, config, tmp_path, capsys, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = config(run_dir=f"{s3_bucket.uri}/run", source=str(tmp_path))
    assert "there are no credentials" in last_line_of(capsys, "run", "--config", path)


def test_server_that_is_not_there(s3_bucket, s3_server, config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    path = config(run_dir=f"{s3_bucket.uri}/run", source=str(tmp_path))
    with s3_server.cut_off():
        line = last_line_of(capsys, "run", "--config", path, code=1)
    assert "run again to go on from here" in line
    assert "connect to the endpoint URL" in line


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Root may write everywhere; so the tests that root runs become somebody else for a block."""
    if os.geteuid():
        yield
        return
    for path in (folder, *folder.parents):
        if path.owner() == "root" and path.is_relative_to(tempfile.gettempdir()) and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)
    for module in (
        "dxmc_core.evaluation.comparison",
        "ray_jobs.cluster",
    ):  # commands load them late; Python may be root's alone
        importlib.import_module(module)
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def read_only_run(make_color_run):
    """A finished run in which nobody may write."""
    run = make_color_run()
    folders = [Path(run.run_dir.uri), *(path for path in Path(run.run_dir.uri).rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield run
    for folder in folders:
        folder.chmod(0o755)


def test_read_only_run_directory_is_read_and_not_written(read_only_run, config, tmp_path, capsys):
    run_dir = read_only_run.run_dir.uri
    path = config(run_dir=run_dir, source=str(read_only_run.photos))
    with as_nobody(Path(run_dir)):
        line = last_line_of(capsys, "run", "--config", path)
        with pytest.raises(SystemExit) as exit_info:
            main(["evaluate", run_dir])
    assert "Permission denied" in line
    assert exit_info.value.code == 0


def test_full_disk(tmp_path, monkeypatch):
    """What is there stays, the lock included, and what could not be written is written by the next attempt."""
    run_dir = RunDir.at(str(tmp_path))
    write = storage._write_local

    def full(path: Path, data: bytes) -> None:
        write(path, data[:1])
        path.unlink()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    stage = run_dir.stage("train_heads")
    with run_dir.locked():
        before = stage.write_file("first", b"1")
        monkeypatch.setattr(storage, "_write_local", full)
        for attempt in (
            lambda: stage.write_file("second", b"2"),
            lambda: stage.publish(fingerprint="f", inputs={}, tables={}, files={"first": before}, seconds=1.0),
        ):
            with pytest.raises(InputError, match=r"no space left to write .*; free some or choose another --run-dir"):
                attempt()
        monkeypatch.setattr(storage, "_write_local", write)
    assert stage.manifest() is None
    assert not any(path.name.endswith(".tmp") for path in tmp_path.rglob("*"))
    with run_dir.locked():
        stage.publish(fingerprint="f", inputs={}, tables={}, files={"first": before}, seconds=1.0)
    assert stage.read_file("first") == b"1"
    shutil.rmtree(tmp_path)
