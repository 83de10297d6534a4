"""What answers at once loads nothing heavy, and an interruption is no defect wherever it comes."""

import json
import os
import subprocess
import sys

import pyarrow as pa
import pytest

from dxmc_core.config import parse_config
from ray_jobs.cli import COMMANDS
from ray_jobs.context import RunContext
from ray_jobs.plans import plan_of

HEAVY = {
    "faiss", "matplotlib", "nltk", "open_clip", "pandas", "polars", "ray", "scipy", "sklearn", "tokenizers", "torch",
    "torchvision", "tqdm", "transformers",
}  # fmt: skip
#: Of these, help and the like have no need either.
WITH_ARTIFACTS = {"aiobotocore", "fsspec", "jinja2", "numpy", "PIL", "psutil", "pyarrow", "pydantic", "s3fs", "yaml"}

#: What the summaries of finished stages tell.
METRICS = {
    "embed_images": {"images": 4, "rejects": 0, "rows_resumed": 0, "reject_reasons": {}},
    "build_semantic_space": {"selected_nouns": 1, "vocabulary_nouns": 1, "image_centers": 1},
    "mine_neighbors": {
        "num_neighbors": 3, "index": "exact", "recall": 1.0, "near_duplicate_images": 0, "near_duplicate_groups": 0,
        "exact_copies": 0,
    },
    "train_heads": {"method": "best", "last_epoch": None},
    "assign_clusters": {"clusters_with_images": 3, "mean_confidence": 1.0},
    "write_report": {"bytes": 1},
}  # fmt: skip

RUN = """
import json, sys
from ray_jobs.entry import main
try:
    main()
except SystemExit as stop:
    print("\\nLOADED " + json.dumps([stop.code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""

#: Sends SIGINT to this process when it begins to import a module.
INTERRUPTED = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from ray_jobs.entry import main
main()
"""


def run(program, *arguments):
    environment = {**os.environ, "COLUMNS": "120"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def loaded(*arguments):
    """Exit code, and the packages that a command has loaded."""
    done = run(RUN, *arguments)
    assert "LOADED" in done.stdout, done.stderr
    code, names = json.loads(done.stdout.rpartition("LOADED ")[2])
    return code, set(names)


@pytest.fixture
def config(tmp_path):
    """A configuration over pictures that nobody lists: the folder is not there."""
    values = {"run_dir": str(tmp_path / "run"), "source": {"uri": str(tmp_path / "photos")}, "num_clusters": 3}
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(values))
    return path, parse_config(values, where="test")


NO_USAGE = ["", "run --no-such-option", "preflight --config x.yaml --num-images -5"]
HELP = ["--help", "--version", "completion bash", *(f"{command.NAME} --help" for command in COMMANDS)]


@pytest.mark.parametrize("line", [*NO_USAGE, *HELP])
def test_help_and_usage_load_nothing(line):
    code, names = loaded(*line.split())
    assert code == (2 if line in NO_USAGE else 0)
    assert names & (HEAVY | WITH_ARTIFACTS) == set()


def made_run(config):
    """A run whose stages are all done; its embeddings are gone, which only who reads them would know."""
    context = RunContext.of(config)
    context.counts_distinct = False
    with context.run_dir.locked():
        context.claim()
        for name in context.stages:
            output = context.stage(name)
            fingerprint = "a" * 32 if name == "embed_images" else plan_of(name).fingerprint(context)
            tables = {}
            if name == "embed_images":
                part = output.write_part("images", pa.table({"row_id": range(4)}), fingerprint=fingerprint)
                output.storage.delete(part.name)
                tables = {"images": [part]}
            output.publish(fingerprint=fingerprint, inputs={}, tables=tables, metrics=METRICS[name], seconds=1.0)
    return context.run_dir.uri


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("is_made", [True, False], ids=["finished", "begun"])
def test_status_reads_manifests_alone(config, form, is_made):
    if is_made:
        run_dir = made_run(config[1])
    else:
        context = RunContext.of(config[1])
        context.claim()
        run_dir = context.run_dir.uri
    code, names = loaded("status", run_dir, *form)
    assert code == 0
    assert names & (HEAVY | WITH_ARTIFACTS) <= {"fsspec", "pydantic", "yaml"}


def test_unusable_configuration_is_refused_before_anything_heavy_is_loaded(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("run_dir: run\nsource: {uri: photos}\nmethod: {name: best, epochs: 3}\n")
    code, names = loaded("run", "--config", str(path))
    assert code == 2
    assert names & HEAVY == set()


@pytest.mark.parametrize("module", ["argparse", "yaml", "pyarrow.lib", "numpy", "pandas"])
def test_interruption_while_something_is_imported_leaves_no_traceback(config, tmp_path, module):
    (tmp_path / "photos").mkdir()
    command = ["run", "--config", str(config[0]), "--set", "encoder.kind=offline"]  # whose weights are here
    done = run(INTERRUPTED.format(module=module), *command)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert not (tmp_path / "run" / "_lock.json").exists()


@pytest.mark.parametrize("module", ["torch", "torch._C", "ray._raylet", "ray.data"])
def test_interruption_while_workers_are_prepared(tmp_path, module):
    """The lock is held by then, and given back."""
    from numpy import savez
    from numpy.random import default_rng

    savez(tmp_path / "x.npz", embeddings=default_rng(0).normal(size=(40, 8)))
    savez(tmp_path / "nouns.npz", nouns=["a", "b"], embeddings=default_rng(1).normal(size=(2, 8)))
    source, nouns = ({"kind": "embeddings", "uri": str(tmp_path / name)} for name in ("x.npz", "nouns.npz"))
    values = {"run_dir": str(tmp_path / "run"), "source": source, "vocabulary": nouns, "num_clusters": 3}
    (tmp_path / "run.yaml").write_text(json.dumps(values))
    done = run(INTERRUPTED.format(module=module), "run", "--config", str(tmp_path / "run.yaml"))
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == "interrupted; the same command goes on from here"
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "_lock.json").exists()
