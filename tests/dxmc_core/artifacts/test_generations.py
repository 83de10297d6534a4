"""Generations: `current` moves at once or not at all, and what readers and rollbacks need is kept."""

import json

import pytest

from dxmc_core.artifacts.generations import CURRENT_NAME, RECORD_NAME, GenerationRecord, Generations, open_run_dir
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.errors import ArtifactError, DxmcError, InputError


@pytest.fixture(params=["local", "s3"])
def generations(request, tmp_path):
    if request.param == "local":
        return Generations(RunDir.at(str(tmp_path / "home")))
    return Generations(RunDir.at(f"{request.getfixturevalue('s3_bucket').uri}/home"))


def record_of(number, base):
    return GenerationRecord(number=number, base=base, mode="full", reason="test", published_at="now", metrics={})


def publish(generations, *, base=None):
    """Publish the next generation, with a file that tells its number."""
    before, number = generations.pointer(), generations.begin()
    run_dir = generations.run_dir(number)
    run_dir.write_record({"config": {}})
    stage = run_dir.stage("write_report")
    files = {"result": stage.write_file("result", str(number).encode())}
    stage.publish(fingerprint="a" * 32, inputs={}, tables={}, files=files, seconds=1.0)
    generations.publish(record_of(number, base), before=before)
    return number


def read_result(generations):
    return int(open_run_dir(generations.home.uri).stage("write_report").read_file("result"))


def test_without_generations_a_directory_is_its_own_run(generations):
    assert open_run_dir(generations.home.uri) == generations.home
    assert generations.published() == []
    with pytest.raises(InputError, match="no generations"):
        generations.rollback()


def test_readers_follow_current_and_what_is_half_made_is_not_seen(generations):
    assert [publish(generations), publish(generations)] == [1, 2]
    number = generations.begin()
    generations.run_dir(number).storage.write_bytes("result", b"half")
    assert read_result(generations) == 2
    assert [record.number for record in generations.published()] == [1, 2]
    assert generations.begin() == 3
    publish(generations)
    assert read_result(generations) == 3


def test_generation_whose_pointer_was_not_moved_is_made_again(generations):
    publish(generations)
    storage = generations.run_dir(generations.begin()).storage
    storage.write_bytes(RECORD_NAME, record_of(2, 1).model_dump_json().encode())
    assert [record.number for record in generations.published()] == [1]
    assert generations.begin() == 2
    assert generations.record(2) is None


def test_publishing_fails_when_current_was_moved_meanwhile(generations):
    publish(generations)
    publish(generations)
    before = generations.pointer()
    generations.rollback()
    with pytest.raises(DxmcError, match="moved by somebody else"):
        generations.publish(record_of(generations.begin(), 2), before=before)
    assert read_result(generations) == 1
    with pytest.raises(DxmcError, match="moved by somebody else"):
        generations.publish(record_of(3, None), before=None)


def test_rollback_goes_back_and_numbers_are_never_given_twice(generations):
    for _ in range(3):
        publish(generations)
    assert generations.rollback().number == 2
    assert read_result(generations) == 2
    assert generations.rollback(3).number == 3
    assert generations.rollback(1).number == 1
    with pytest.raises(InputError, match="does not keep an earlier generation; it keeps 1, 2, 3"):
        generations.rollback()
    with pytest.raises(InputError, match="does not keep generation 4"):
        generations.rollback(4)
    assert publish(generations) == 4


def test_retention_keeps_current_and_the_newest(generations):
    for _ in range(6):
        publish(generations)
    generations.rollback(2)
    half = generations.run_dir(generations.begin()).storage
    half.write_bytes("result", b"half")
    assert generations.retire(3) == [1, 3, 4]
    assert [record.number for record in generations.published()] == [2, 5, 6]
    assert read_result(generations) == 2
    assert half.exists("result")
    assert generations.retire(1) == [5, 6]
    assert generations.retire(1) == []


def test_what_is_half_removed_is_no_generation_and_is_removed(generations):
    for _ in range(3):
        publish(generations)
    generations.run_dir(2).storage.delete(RECORD_NAME)
    with pytest.raises(InputError, match="does not keep generation 2"):
        generations.rollback(2)
    assert generations.retire(3) == [2]
    assert generations.run_dir(2).storage.list_files() == {}
    assert generations.retire(3) == []
    assert read_result(generations) == 3


def test_retention_leaves_what_others_have_put_into_a_generation(generations, caplog):
    for _ in range(3):
        publish(generations)
    theirs = {
        "notes.txt",
        "report/thesis.tex",
        "report/deep/part-0123456789ab-0123456789abcdef0123456789abcdef.parquet",
        "embed_images/images/part-0123456789ab-0123456789abcdef0123456789abcdef.parquet",
        "train_heads/_manifest.json",
    }
    storage = generations.run_dir(1).storage
    for name in theirs:
        storage.write_bytes(name, b"{}")
    generations.home.storage.write_bytes("generations/000002/photos/cat.jpg", b"cat")
    generations.home.storage.write_bytes("generations/notes/a", b"a")
    assert generations.retire(1) == [1, 2]
    assert set(storage.list_files()) == theirs
    assert generations.run_dir(2).storage.list_files() == {"photos/cat.jpg": 3}
    assert generations.home.storage.read_bytes("generations/notes/a") == b"a"
    assert all(repr(name) in caplog.text for name in theirs)
    assert generations.retire(1) == []
    assert generations.pointer().current == 3


def test_place_of_somebody_else_gets_no_generations(generations):
    generations.require_own_or_empty()
    generations.home.storage.write_bytes("metrics.json", b"{}")
    with pytest.raises(InputError, match=r"is not empty and no run of dxmc: it has no run.json, but 'metrics.json'"):
        generations.require_own_or_empty()
    publish(generations)
    generations.require_own_or_empty()


def test_damaged_pointer_is_an_error_that_a_rollback_mends(generations):
    publish(generations)
    generations.home.storage.write_bytes(CURRENT_NAME, b"{")
    with pytest.raises(ArtifactError, match=r"dxmc rollback \S+ --to N"):
        open_run_dir(generations.home.uri)
    assert generations.rollback(1).number == 1
    assert read_result(generations) == 1
    assert json.loads(generations.home.storage.read_bytes(CURRENT_NAME))["highest"] == 1
