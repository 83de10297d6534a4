import numpy as np
import pytest
from PIL import Image

from dxmc_core import demo
from dxmc_core.errors import InputError


def _contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_scene_has_its_folder_of_different_crops(tmp_path):
    folder = tmp_path / "demo"
    demo.make_demo_images(folder, per_class=3)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == sorted(s.label for s in demo.SCENES)
    for scene in demo.SCENES:
        pictures = [Image.open(path) for path in sorted((folder / scene.label).glob("*.jpg"))]
        assert len(pictures) == 3
        assert all(max(picture.size) == demo.LONG_SIDE_PX for picture in pictures)
        first, second = (np.asarray(picture.resize((32, 32)), dtype=float) for picture in pictures[:2])
        assert np.abs(first - second).mean() > 3
    credits = (folder / demo.SOURCES_NAME).read_text()
    assert all(f"{scene.label}: {scene.picture.file_name}, " in credits for scene in demo.SCENES)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_the_same_seed_makes_the_same_files_and_another_seed_others(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        demo.make_demo_images(tmp_path / name, seed=seed, per_class=1)
    assert _contents(tmp_path / "a") == _contents(tmp_path / "b")
    assert _contents(tmp_path / "a") != _contents(tmp_path / "c")


def test_a_finished_folder_is_left_alone_and_one_of_other_settings_refused(tmp_path):
    folder = tmp_path / "demo"
    demo.make_demo_images(folder, per_class=1)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    demo.make_demo_images(folder, per_class=1)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (folder / "cat/mine.jpg").write_bytes(b"mine")
    whole = _contents(folder)
    with pytest.raises(InputError, match=r"was made with .*'per_class': 1}, asked for is .*'per_class': 2}; delete it"):
        demo.make_demo_images(folder, per_class=2)
    assert _contents(folder) == whole


def test_a_file_in_the_place_of_the_folder_is_refused_and_an_empty_folder_filled(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(InputError, match="did not make"):
        demo.make_demo_images(tmp_path / "file", per_class=1)
    assert _contents(tmp_path) == {"file": b"mine"}
    (tmp_path / "empty").mkdir()
    demo.make_demo_images(tmp_path / "empty", per_class=1)
    assert len(list((tmp_path / "empty").glob("*/*.jpg"))) == len(demo.SCENES)


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_change_colours", interrupt)
    with pytest.raises(KeyboardInterrupt):
        demo.make_demo_images(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_files_of_somebody_else_are_never_touched(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match="did not make"):
        demo.make_demo_images(tmp_path)
    assert _contents(tmp_path) == {"holiday.jpg": b"mine"}


def test_missing_package_says_what_to_install(tmp_path, monkeypatch):
    picture = demo.Picture("no_such_package", "x.png", "nobody")
    monkeypatch.setattr(demo, "SCENES", (demo.Scene("x", picture),))
    with pytest.raises(InputError, match="pip install"):
        demo.make_demo_images(tmp_path / "demo")
