"""Local paths that a host lacks, or where it has other files, are found on that host and told in one line."""

import os
import re
import shutil

import pytest
from PIL import Image

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.config import parse_config
from dxmc_core.errors import InputError
from dxmc_core.images.catalog import list_source
from ray_jobs.context import RunContext
from ray_jobs.local_places import LocalFile, local_files_of, require_here


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(200):
        Image.new("RGB", (4 + number, 4)).save(folder / f"{number:03}.png")
    return folder


def context_of(source, run_dir="s3://bucket/run", **values):
    config = parse_config({"run_dir": str(run_dir), "source": {"uri": str(source)}, **values}, where="test")
    return RunContext(config, RunDir.at(config.run_dir), listing=list_source(config.source))


def test_a_folder_is_known_by_files_from_all_over_it(photos):
    files = local_files_of(context_of(photos, encoder={"kind": "offline"}))
    assert {file.key for file in files} == {"source.uri"}
    paths = [file.path for file in files]
    assert len(paths) >= 64
    assert (paths[0], paths[-1]) == (str(photos / "000.png"), str(photos / "198.png"))
    require_here(files)


def test_a_host_without_the_folder_is_named_with_what_to_do(photos):
    files = local_files_of(context_of(photos, encoder={"kind": "offline"}))
    shutil.rmtree(photos)
    host = re.escape(os.uname().nodename)
    said = rf"^source.uri is local, and host {host} lacks it \(.*000.png: No such file .*\); on a cluster"
    with pytest.raises(InputError, match=said):
        require_here(files)


def test_a_host_with_other_files_of_these_names(photos):
    files = local_files_of(context_of(photos, encoder={"kind": "offline"}))
    (photos / "000.png").write_bytes(b"other")
    with pytest.raises(InputError, match=r"000.png has 5 bytes there, not \d+\)"):
        require_here(files)


def test_local_files_that_a_list_names_among_others(photos, tmp_path):
    (tmp_path / "list.csv").write_text(
        f"uri,size,etag\ns3://bucket/a.png,3,x\n{photos / '007.png'},{(photos / '007.png').stat().st_size},y\n"
    )
    (file,) = local_files_of(context_of(tmp_path / "list.csv", encoder={"kind": "offline"}))
    assert (file.key, file.path) == ("source.uri", str(photos / "007.png"))
    require_here((file,))


def test_a_run_directory_is_known_by_its_lock(photos, tmp_path):
    context = context_of(photos, tmp_path / "run", encoder={"kind": "offline"})
    with context.run_dir.locked():
        (file,) = (file for file in local_files_of(context) if file.key == "run_dir")
        require_here((file,))
    # The folder of this name on another host, where another run has been.
    with context.run_dir.locked(), pytest.raises(InputError, match=r"run_dir is .* \(.*run there is another folder\)"):
        require_here((file,))
    with pytest.raises(InputError, match=r"_lock\.json: No such file"):
        require_here((file,))


def test_generations_are_known_by_the_lock_of_their_home(photos, tmp_path):
    home = RunDir.at(str(tmp_path / "home"))
    with home.locked():
        files = local_files_of(context_of(photos, tmp_path / "home/generations/000001", encoder={"kind": "offline"}))
        assert [file.path for file in files if file.key == "run_dir"] == [str(tmp_path / "home/_lock.json")]
        require_here(files)


def test_a_checkpoint_and_an_earlier_run(photos, tmp_path):
    checkpoint = tmp_path / "weights.pt"
    checkpoint.write_bytes(b"weights")
    stage = RunDir.at(str(tmp_path / "before")).stage("assign_clusters")
    stage.publish(fingerprint="f" * 32, inputs={}, tables={}, seconds=1.0)
    context = context_of(
        photos,
        encoder={"pretrained": str(checkpoint)},
        assign_clusters={"keep_ids_from": str(tmp_path / "before")},
    )
    files = {file.key: file for file in local_files_of(context)}
    assert files["encoder.pretrained"] == LocalFile("encoder.pretrained", str(checkpoint), size=7)
    assert files["assign_clusters.keep_ids_from"].path == str(tmp_path / "before/assign_clusters/_manifest.json")
    require_here(tuple(files.values()))


def test_what_lies_in_object_storage_is_not_looked_for(s3_bucket):
    s3_bucket.put("photos/a.png", b"x")
    assert local_files_of(context_of(f"{s3_bucket.uri}/photos", encoder={"kind": "offline"})) == ()
