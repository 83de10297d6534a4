"""deploy/requirements.py, by which the image gets the packages before the sources."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_an_extra_brings_what_it_names_of_other_extras():
    command = [sys.executable, str(ROOT / "deploy/requirements.py"), str(ROOT / "pyproject.toml"), "pipeline"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    names = [line.partition(">")[0].partition("[")[0] for line in lines]
    assert len(names) == len(set(names))
    assert {"torch", "ray", "faiss-gpu", "open_clip_torch", "nltk", "pyarrow", "s3fs", "scikit-learn"} <= set(names)
    assert not {"dxmc", "pytest", "scikit-image", "faiss-cpu"} & set(names)
