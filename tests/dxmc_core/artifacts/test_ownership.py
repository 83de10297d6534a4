"""What dxmc has not written it neither replaces nor removes, whatever its name; what it has, it cleans up."""

import json

import pyarrow as pa
import pytest

from dxmc_core.artifacts.manifest import CATALOG_NAME, MANIFEST_NAME
from dxmc_core.artifacts.ownership import OWN_NAME
from dxmc_core.artifacts.run_dir import RUN_NAME, RunDir
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.storage import write_output
from dxmc_core.errors import InputError

OLD, NEW, OTHER = "a" * 32, "b" * 32, "c" * 32
SHA = "0123456789abcdef" * 2


@pytest.fixture(params=["local", "s3"])
def run_dir(request, tmp_path):
    if request.param == "local":
        return RunDir.at(str(tmp_path / "run"))
    return RunDir.at(f"{request.getfixturevalue('s3_bucket').uri}/run")


@pytest.fixture
def stage(run_dir):
    return run_dir.stage("train_heads")


def write_part(stage, row, *, fingerprint):
    return stage.write_part("images", pa.table({"row_id": [row]}), fingerprint=fingerprint)


def publish(stage, *, fingerprint, parts=(), files=None):
    return stage.publish(
        fingerprint=fingerprint, inputs={}, tables={"images": list(parts)}, files=files or {}, seconds=1.0
    )


#: Files whose names come near those of dxmc, in a folder of which it knows the attempts OLD and NEW.
FOREIGN = (
    "keep.txt",
    "thesis.tex",
    ".hidden",
    ".keep.txt.0123abcd.tmp",
    "images/part-0.parquet",
    "images/cats.parquet",
    f"images/part-{OTHER[:12]}-{SHA}.parquet",
    f"images/part-{OLD[:12]}-{SHA}.parquet.bak",
    f"images/deep/part-{OLD[:12]}-{SHA}.parquet",
    f"images_backup/part-{OLD[:12]}-{SHA}.parquet",
    f"part-{OLD[:12]}-{SHA}.parquet",
    "checkpoints/best.pt",
    f"checkpoints/{OLD[:12]}/best.pt",
    f"checkpoints/{OTHER[:12]}/epoch-000001.pt",
    f"ray_train/{OLD[:12]}-01234567/notes.txt",
    f"ray_train/{OTHER[:12]}-01234567/checkpoint_manager_snapshot.json",
    "ünïcode [1] *?.txt",
)


def test_what_others_wrote_stays_and_is_named_once(stage, caplog):
    stage.begin(OLD)
    first = write_part(stage, 0, fingerprint=OLD)
    publish(stage, fingerprint=OLD, parts=[first], files={"model": stage.write_file("model", b"1")})
    for name in FOREIGN:
        stage.storage.write_bytes(name, name.encode())
    stage.begin(NEW)
    second = write_part(stage, 1, fingerprint=NEW)
    publish(stage, fingerprint=NEW, parts=[second], files={"model": stage.write_file("model", b"2")})
    assert set(stage.storage.list_files()) == {*FOREIGN, MANIFEST_NAME, OWN_NAME, "model", second.name}
    assert all(stage.storage.read_bytes(name) == name.encode() for name in FOREIGN)
    [line] = [record.message for record in caplog.records]
    assert line.startswith(f"{stage.storage.uri}: left alone, as dxmc did not write it: '.hidden', ")
    assert line.endswith(f"(and {len(FOREIGN) - 10} more)")


def test_what_killed_attempts_left_is_removed(stage):
    """Two attempts that were killed, under other settings each, and the parts and temporary files of all kinds."""
    stage.begin(OLD)
    write_part(stage, 0, fingerprint=OLD)
    stage.write_file(CATALOG_NAME, b"{}")
    stage.storage.write_bytes(f"checkpoints/{OLD[:12]}/epoch-000003.pt", b"x")
    stage.storage.write_bytes(f"checkpoints/{OLD[:12]}/metrics.jsonl", b"x")
    stage.storage.write_bytes(f"ray_train/{OLD[:12]}-01234567/.validate_storage_marker", b"x")
    stage.begin(NEW)
    write_part(stage, 1, fingerprint=NEW)
    stage.write_file("model", b"1")
    for name in (MANIFEST_NAME, OWN_NAME, CATALOG_NAME, "model", f"part-{NEW[:12]}-{SHA}.parquet"):
        folder = "images/" if name.startswith("part") else ""
        stage.storage.write_bytes(f"{folder}.{name}.0123abcd.tmp", b"half")
    stage.begin(OTHER)
    part = write_part(stage, 2, fingerprint=OTHER)
    publish(stage, fingerprint=OTHER, parts=[part])
    assert set(stage.storage.list_files()) == {MANIFEST_NAME, OWN_NAME, part.name}


def test_leftovers_of_a_run_that_an_earlier_version_made_are_known_by_its_manifests(stage):
    """It wrote no `_own.json`; its manifest may be of another schema."""
    old = write_part(stage, 0, fingerprint=OLD)
    staged = write_part(stage, 5, fingerprint=OLD)
    manifest = publish(stage, fingerprint=OLD, parts=[old])
    assert OWN_NAME not in stage.storage.list_files()
    stage.storage.write_bytes(staged.name, b"left by an attempt that was repeated")
    stage.storage.write_bytes("model", b"1")
    found = json.loads(manifest.to_json()) | {"schema_version": 3, "files": {"model": {"name": "model"}}}
    stage.storage.write_bytes(MANIFEST_NAME, json.dumps(found).encode())
    stage.storage.write_bytes("catalog/notes.txt", b"mine")
    catalog = f"catalog/part-{NEW[:12]}-{SHA}.parquet"
    stage.storage.write_bytes(catalog, b"x")
    frozen = {**found, "fingerprint": NEW, "tables": {}, "files": {}}
    stage.storage.write_bytes(CATALOG_NAME, json.dumps(frozen).encode())
    stage.begin(OTHER)
    part = write_part(stage, 1, fingerprint=OTHER)
    stage.write_file("model", b"2")
    stage.write_file(CATALOG_NAME, b"{}")
    publish(stage, fingerprint=OTHER, parts=[part])
    assert set(stage.storage.list_files()) == {MANIFEST_NAME, OWN_NAME, part.name, "catalog/notes.txt"}


@pytest.mark.parametrize("name", ["index.html", "deep/cells.npz"])
def test_file_of_somebody_else_is_not_replaced(stage, name):
    stage.begin(OLD)
    stage.storage.write_bytes(name, b"mine")
    with pytest.raises(InputError, match=rf"/{name} is in the way: nothing shows that dxmc wrote it"):
        stage.write_file(name, b"ours")
    assert stage.storage.read_bytes(name) == b"mine"
    stage.storage.delete(name)
    stage.write_file(name, b"ours")
    stage.write_file(name, b"ours again")
    assert stage.storage.read_bytes(name) == b"ours again"


@pytest.mark.parametrize("name", [MANIFEST_NAME, OWN_NAME, CATALOG_NAME])
@pytest.mark.parametrize("content", [b"", b"mine", b"[]", b'{"stage": "embed_images", "fingerprint": "x"}', b"\xff{"])
def test_manifest_of_somebody_else_stops_the_stage_before_it_begins(stage, name, content):
    stage.storage.write_bytes(name, content)
    with pytest.raises(InputError, match=f"{name} is in the way"):
        stage.begin(OLD)
    assert {name: stage.storage.read_bytes(name)} == dict.fromkeys(stage.storage.list_files(), content)


def test_damaged_manifest_of_dxmc_is_replaced(stage):
    stage.begin(OLD)
    part = write_part(stage, 0, fingerprint=OLD)
    publish(stage, fingerprint=OLD, parts=[part], files={"model": stage.write_file("model", b"1")})
    for damaged in (b"", b"{", b"\xff"):
        stage.storage.write_bytes(MANIFEST_NAME, damaged)
        stage.begin(OLD)
        publish(stage, fingerprint=OLD, parts=[part], files={"model": stage.write_file("model", b"1")})
        assert stage.read_file("model") == b"1"


def test_names_that_lead_out_of_the_folder_remove_nothing(run_dir, stage):
    """A forged manifest names files elsewhere; they are none of the folder's."""
    part = write_part(stage, 0, fingerprint=OLD)
    manifest = publish(stage, fingerprint=OLD, parts=[part])
    outside = run_dir.storage
    outside.write_bytes("thesis.tex", b"mine")
    outside.write_bytes("embed_images/images/x", b"mine")
    forged = [part.model_copy(update={"name": name}) for name in ("../thesis.tex", "../embed_images/images/x")]
    forgery = manifest.model_copy(update={"tables": {"images": forged}})
    stage.storage.write_bytes(MANIFEST_NAME, forgery.to_json())
    stage.begin(NEW)
    publish(stage, fingerprint=NEW)
    stage.delete()
    assert outside.read_bytes("thesis.tex") == outside.read_bytes("embed_images/images/x") == b"mine"


def test_stage_folder_that_is_a_link_to_a_folder_of_somebody_else(tmp_path):
    photos = tmp_path / "photos"
    (photos / "images").mkdir(parents=True)
    theirs = ("cat.jpg", "images/part.parquet", "index.html")
    for name in theirs:
        (photos / name).write_bytes(b"mine")
    run_dir = RunDir.at(str(tmp_path / "run"))
    run_dir.write_record({"config": {}})
    (tmp_path / "run/report").symlink_to(photos)
    stage = run_dir.stage("write_report")
    stage.begin(OLD)
    with pytest.raises(InputError, match=r"index\.html is in the way"):
        stage.write_file("index.html", b"ours")
    publish(stage, fingerprint=OLD)
    run_dir.delete()
    assert {name: (photos / name).read_bytes() for name in theirs} == dict.fromkeys(theirs, b"mine")


def test_run_directory_that_is_deleted_leaves_what_is_not_its_own(run_dir):
    run_dir.write_record({"config": {}})
    for stage in (run_dir.stage("embed_images"), run_dir.stage("train_heads")):
        stage.begin(OLD)
        publish(stage, fingerprint=OLD, parts=[write_part(stage, 0, fingerprint=OLD)])
    events = f"tensorboard/{OLD[:12]}/events.out.tfevents.1700000000.host"
    run_dir.storage.write_bytes(events, b"x")
    others = events.replace(OLD[:12], OTHER[:12])
    theirs = ["notes.txt", "embed_images/keep.txt", "tensorboard/mine", others, "photos/run.json"]
    for name in theirs:
        run_dir.storage.write_bytes(name, b"mine")
    assert run_dir.delete() == sorted(theirs)
    assert sorted(run_dir.storage.list_files()) == sorted(theirs)
    assert run_dir.delete() == sorted(theirs)


def test_new_and_empty_places_are_taken(run_dir, s3_bucket):
    run_dir.require_empty()
    if not run_dir.uri.startswith("s3://"):
        RunDir.at(run_dir.uri).storage.write_bytes("x", b"")
        RunDir.at(run_dir.uri).storage.delete("x")
    else:
        s3_bucket.put("run/", b"")  # as consoles make a folder
        s3_bucket.put("runner/x", b"")  # another prefix that begins alike
    run_dir.require_empty()
    with run_dir.locked():
        run_dir.require_empty()
    run_dir.storage.write_bytes(f".{RUN_NAME}.0123abcd.tmp", b"{")
    run_dir.storage.write_bytes("._lock.json.0123abcd.tmp", b"{")
    run_dir.require_empty()
    assert not run_dir.is_own()
    run_dir.write_record({"config": {}})
    assert run_dir.is_own()


@pytest.mark.parametrize(
    "name",
    ["thesis.tex", ".git/config", "embed_images/keep.txt", "_lock.json", ".thesis.tex.0123abcd.tmp", "metrics.json"],
)
def test_places_with_something_in_them_are_refused(run_dir, name):
    run_dir.storage.write_bytes(name, b'{"a": 1}')
    shown = name.partition("/")[0]
    with pytest.raises(InputError, match=f"is not empty and no run of dxmc: it has no run.json, but '{shown}'"):
        run_dir.require_empty()
    assert run_dir.storage.list_files() == {name: 8}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"config": 1}', b"\xff", b'{"project": "other"}'])
def test_run_json_of_another_program_is_none(run_dir, content):
    run_dir.storage.write_bytes(RUN_NAME, content)
    with pytest.raises(InputError, match=r"run.json is damaged, or another program wrote it; choose another --run-dir"):
        run_dir.is_own()
    assert run_dir.storage.read_bytes(RUN_NAME) == content


def test_a_file_is_no_run_directory(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(InputError):
        RunDir.at(str(tmp_path / "file")).require_empty()
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_lock_of_another_program_is_left(run_dir):
    run_dir.storage.write_bytes("_lock.json", b'{"pid": 1}')
    with pytest.raises(InputError, match=r"_lock.json of another program is in the way"), run_dir.locked():
        pass
    assert run_dir.storage.read_bytes("_lock.json") == b'{"pid": 1}'


def test_output_replaces_its_own_kind_only(run_dir):
    uri = f"{run_dir.uri}/page.html"
    assert write_output(uri, b"<p>mark 1", mark=b"mark") == uri
    write_output(uri, b"<p>mark 2", mark=b"mark")
    assert run_dir.storage.read_bytes("page.html") == b"<p>mark 2"
    for name, content in {"thesis.html": b"<p>mine", "empty": b""}.items():
        run_dir.storage.write_bytes(name, content)
        with pytest.raises(InputError, match=f"{name} is there already, and dxmc did not write it; name another file"):
            write_output(f"{run_dir.uri}/{name}", b"<p>mark", mark=b"mark")
        assert run_dir.storage.read_bytes(name) == content


def test_output_through_a_link_keeps_the_link_and_what_it_leads_to(tmp_path):
    thesis, link, to_new = tmp_path / "thesis.html", tmp_path / "link.html", tmp_path / "to_new.html"
    thesis.write_bytes(b"mine")
    link.symlink_to(thesis)
    to_new.symlink_to(tmp_path / "new.html")
    with pytest.raises(InputError, match="is there already"):
        write_output(str(link), b"mark", mark=b"mark")
    write_output(str(to_new), b"mark", mark=b"mark")
    assert (thesis.read_bytes(), (tmp_path / "new.html").read_bytes()) == (b"mine", b"mark")
    assert link.is_symlink()
    assert to_new.is_symlink()


def test_parts_that_a_killed_run_left_are_resumed(stage):
    stage.begin(OLD)
    part = write_part(stage, 7, fingerprint=OLD)
    again = StageDir(stage.storage, stage.stage)
    again.begin(OLD)
    [(found, row_ids)] = again.staged_row_ids("images", fingerprint=OLD)
    assert (found, row_ids.tolist()) == (part, [7])
