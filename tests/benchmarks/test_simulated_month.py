"""The month's plan: what comes and goes follows from the seed, also when it goes on, and what is wrong is found."""

import io
import tarfile
from collections import Counter

import pytest
import simulated_month as module

CLASSES = ("cat", "dog", "frog")


@pytest.fixture
def make_month(tmp_path, monkeypatch):
    """Makes the month over a small archive: the first time, or as it goes on."""
    archive = tmp_path / "images.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        for label in CLASSES:
            for number in range(120):
                info = tarfile.TarInfo(f"train/{label}/{number:04}.jpg")
                info.size = 4
                tar.addfile(info, io.BytesIO(f"{number:04}".encode()))
    monkeypatch.setattr(
        "sys.argv",
        ["simulated_month.py", "--data", str(archive), "--folder", str(tmp_path / "month"), "--classes", *CLASSES,
         "--images-first", "40", "--images-per-night", "8", "--deleted-per-night", "2", "--nights", "6",
         "--new-class", "frog", "--new-day", "3", "--gone-class", "cat", "--gone-day", "5"],
    )  # fmt: skip
    return lambda: module.Month(module.parse_options())


def images_of(month):
    return {f"{path.parent.name}/{path.name}": path.stat().st_mtime_ns for path in month.photos.glob("*/*.jpg")}


def test_classes_come_and_go_on_their_days(make_month):
    month = make_month()
    seen = []
    for day in range(1, 7):
        month.move_images(day)
        seen.append(Counter(name.split("/")[0] for name in images_of(month)))
    assert seen[0] == {"cat": 20, "dog": 20}
    assert "frog" not in seen[1]
    assert 3 <= seen[2]["frog"] <= 4
    assert "cat" in seen[3]
    assert all("cat" not in counts for counts in seen[4:])


def test_month_that_goes_on_finds_its_images_as_they_were(make_month):
    month = make_month()
    for day in (1, 2, 3):
        month.move_images(day)
    before = images_of(month)
    again = make_month()
    for day in (1, 2, 3):
        again.move_images(day)
    after = images_of(again)
    assert after.keys() == before.keys()
    assert after == before


def test_ids_that_changed_for_nothing_are_found():
    before = {"a": 0, "b": 0, "c": 1, "d": 1}
    assert module.wrong_ids(before, {"a": 0, "b": 0, "c": 1, "e": 1}, mode="assign") == []
    assert module.wrong_ids(before, {"a": 0, "b": 1, "c": 1}, mode="assign") == ["1 images changed their cluster"]
    assert module.wrong_ids(before, {"a": 0, "b": 2, "c": 1, "d": 1}, mode="full") == []
    assert module.wrong_ids(before, {"a": 5, "b": 5, "c": 1, "d": 1}, mode="full") == ["cluster 0 became 5"]
