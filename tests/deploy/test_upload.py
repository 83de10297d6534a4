"""What `ray job submit --working-dir .` uploads from a checkout in use, by Ray's own packing."""

import shutil
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("dxmc", "dxmc_core", "ray_jobs", "configs")
MAX_BYTES = 10_000_000


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory):
    """Names and sizes in the package of a checkout that has an environment, a run, photographs and caches."""
    checkout = tmp_path_factory.mktemp("checkout") / "dxmc"
    for name in (*FOLDERS, "docs", "tests", "deploy"):
        shutil.copytree(REPOSITORY / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitignore", ".rayignore", "README.md", "constraints.txt", "cluster.yaml"):
        shutil.copyfile(REPOSITORY / name, checkout / name)
    for name in (
        ".venv/lib/torch.so", "runs/demo/report/index.html", "photos/a.jpg", "notes.txt", ".git/objects/x", ".env",
        "dxmc_core/__pycache__/config.pyc", "dxmc.egg-info/PKG-INFO", "mine.yaml",
    ):  # fmt: skip
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(b"x")
    package = checkout.parent / "package.zip"
    create_package(str(checkout), package, include_gitignore=True)
    with zipfile.ZipFile(package) as archive:
        return {info.filename: info.file_size for info in archive.infolist()}


def test_only_the_library_its_jobs_and_the_configurations_travel(uploaded):
    tops = {name.split("/")[0] for name in uploaded}
    assert tops == {"dxmc", "dxmc_core", "ray_jobs", "configs", "cluster.yaml", "mine.yaml"}
    assert not any("__pycache__" in name for name in uploaded)
    assert sum(uploaded.values()) < MAX_BYTES


def test_all_of_the_library_travels(uploaded):
    files = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*") if path.is_file()]
    present = {str(path.relative_to(REPOSITORY)) for path in files if "__pycache__" not in path.parts}
    assert present
    assert present <= uploaded.keys()
