"""`import dxmc`: light, whole, and clear about what is not installed."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import dxmc

ROOT = Path(__file__).parents[2]
#: Imported names of what only extras bring, by the name they are installed by.
PACKAGES = {"open-clip-torch": "open_clip", "pyyaml": "yaml", "pillow": "PIL", "faiss-gpu": "faiss"}

HIDE = """
import sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {hidden} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
"""


def python(code: str, *, hidden: set[str] = frozenset(), cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run code in a process that does not find the hidden packages."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", HIDE.format(hidden=repr(set(hidden))) + code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def extras() -> set[str]:
    """Packages as they are imported that an installation without extras lacks."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = ("report", "jobs", "pipeline")
    names = {Requirement(text).name.lower() for group in groups for text in project["optional-dependencies"][group]}
    own = {Requirement(text).name.lower() for text in project["dependencies"]}
    assert not names & own
    return {PACKAGES.get(name.replace("_", "-"), name) for name in names - {"dxmc"}}


def test_every_public_name_is_there():
    for name in dxmc.__all__:
        assert getattr(dxmc, name) is not None
    assert set(dxmc.__all__) == set(dir(dxmc))
    with pytest.raises(AttributeError, match="module 'dxmc' has no attribute 'DXCM'; it has DXMC"):
        _ = dxmc.DXCM


def test_importing_it_imports_nothing_heavy():
    done = python(
        "import dxmc, sys; dxmc.__version__; "
        "heavy = {'torch', 'numpy', 'sklearn', 'pandas', 'pyarrow', 'ray', 'pydantic'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert done.stdout.strip() == "[]", done.stderr


FIT = """
import numpy as np
from dxmc import DXMC, MissingPackageError

generator = np.random.default_rng(0)
centers = np.linalg.qr(generator.normal(size=(16, 16)))[0][:3]
rows = centers[np.arange(60) % 3] + 0.05 * generator.normal(size=(60, 16))
model = DXMC(3, method="kmeans").fit(rows, noun_embeddings=centers, nouns=["a", "b", "c"])
assert sorted(model.cluster_names_) == ["a", "b", "c"]
"""


def test_the_estimator_needs_no_extra(extras, tmp_path):
    code = FIT + (
        "model.save('model'); assert (DXMC.load('model').labels_ == model.labels_).all()\n"
        "DXMC('auto', random_state=1).fit(rows); DXMC(3, method='dxmc', method_settings={'num_epochs': 1}).fit("
        "rows, noun_embeddings=centers)"
    )
    done = python(code, hidden=extras, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            "model.to_report('page.html', rows)",
            r"to_report needs the package (PIL|jinja2): pip install 'dxmc\[report\]'",
        ),
        (
            "model.fit(rows, noun_embeddings=centers, nouns=list('abc'), synset_ids=['dog.n.01'] * 3)",
            r"synset_ids needs the package \w+: pip install 'dxmc\[pipeline\]'",
        ),
        ("import dxmc; dxmc.run_pipeline", r"dxmc\.run_pipeline needs the package \w+: pip install 'dxmc\[pipeline\]'"),
        (
            "from dxmc_core.method.neighbors.exact import build_index; build_index(rows, device='cuda')",
            r"device 'cuda' needs the package faiss: pip install 'dxmc\[pipeline\]'",
        ),
    ],
)
def test_what_needs_an_extra_says_which_in_one_line(extras, tmp_path, call, message):
    code = FIT + f"try:\n    {call}\nexcept MissingPackageError as error:\n    print(error)\n"
    done = python(code, hidden=extras, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert re.fullmatch(message, line)


def test_the_command_line_says_what_it_needs(extras):
    done = python("from dxmc.__main__ import main; main()", hidden=extras)
    assert done.returncode == 2
    assert done.stderr == "error: the command line needs the package ray: pip install 'dxmc[pipeline]'\n"


def test_packages_are_typed():
    assert all((ROOT / name / "py.typed").is_file() for name in ("dxmc", "dxmc_core", "ray_jobs"))
