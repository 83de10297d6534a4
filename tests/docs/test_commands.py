"""The commands of the pages, in their order, typed into an installed wheel on a machine of one's own.

What differs from the page: the photographs are few, the bucket is on loopback, the encoder is the offline one, and the
nouns are a short list; the runs in the bucket are by k-means, the one of the README by the method that is the default;
`aws` is a stand-in for what the pages use of it.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from dxmc_core.demo import make_demo_images
from dxmc_core.encoders.offline import EMBEDDING_WIDTH
from ray_jobs.cli import make_parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = [path.parent.name for path in ROOT.glob("*/__init__.py")]
#: Pages that are followed from top to bottom, by which the commands of all others are known to be examples of.
FOLLOWED = ("README.md", "docs/SEARCH.md", "docs/BUCKET.md", "docs/OPERATIONS.md")
#: Commands that are not run here, by their beginning, and why.
NOT_RUN = {
    "make ": "installs the project first; CI runs `make test`, and `make demo` is what `dxmc init demo` prints",
    "source ": "of an environment that `make` makes",
    "aws iam": "no AWS account",
    "aws ssm": "no AWS account",
    "trust=": "no AWS account",
    "for role": "no AWS account",
    "ray ": "no cluster; tests/ray_jobs/test_job_submit.py submits to a head on this machine",
    "export RAY_API": "no cluster",
    "docker ": "no Docker engine",
    "kubectl ": "no Kubernetes cluster; tests/deploy checks the manifests",
    "export PIP_EXTRA": "an index that cannot be reached here",
    "python -m pip": "installs packages; tests/deploy resolves them",
    "python benchmarks/": "takes long; tests/benchmarks runs the benchmarks small",
    "dxmc run --config FILE": "FILE stands for any",
    "dxmc edit runs/demo": "the numbers of clusters are examples; tests/ray_jobs/commands/test_edit.py edits a run",
    "dxmc search runs/laptop dog --where": "no cluster of the demo's photographs is called beach",
    "dxmc search runs/laptop --interactive": "asks the keyboard; tests/ray_jobs/commands/test_search.py answers",
    "dxmc review ": "waits for a browser; tests/dxmc_core/edits/test_server.py asks it",
    "clip-retrieval ": "another program, which is not installed",
    "embedding-atlas ": "another program, which is not installed",
}
NOUNS = ("cat", "flower", "palace", "rocket", "gravel", "coffee", "motorcycle", "brick", "dog", "car", "tree", "sea")
_LIMIT_S = 900

_AWS = '''\
#!{python}
"""The two commands of `aws s3` that the pages use."""
import sys
import boto3

def split(uri):
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key

client = boto3.client("s3")
match sys.argv[1:]:
    case ["s3", "ls", "--recursive", uri]:
        bucket, prefix = split(uri)
        for found in client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
            print("2026-11-30 12:00:00", str(found["Size"]).rjust(10), found["Key"])
    case ["s3", "cp", source, target]:
        client.upload_file(source, *split(target))
    case other:
        sys.exit(f"not known: {{other}}")
'''

#: In the folder of the installed wheel: Ray's workers look for modules where the program lies that started them.
_PROGRAM = """\
import contextlib, io, json, sys
import dxmc_core
from ray_jobs.cli import main
from ray_jobs.program import configure_logging

configure_logging()
print(json.dumps(dxmc_core.__file__), flush=True)
answers = sys.stdout
for line in sys.stdin:
    said = io.StringIO()
    sys.argv[0] = sys.argv[1]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(json.loads(line))
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([code, said.getvalue()]), file=answers, flush=True)
"""


def commands_of(page: Path) -> list[str]:
    """What a page says to type, in its order: blocks of bash, and commands with a path within the text."""
    found = []
    for block, inline in re.findall(r"^```bash\n(.*?)^```|`(dxmc [^`\n]*/[^`\n]*)`", page.read_text(), re.S | re.M):
        found += _commands(block) if block else [inline]
    return found


def _commands(block: str) -> Iterator[str]:
    """Commands, each with all its lines, without comments."""
    command = ""
    for line in block.splitlines():
        command += line if not command else f"\n{line}"
        if line.endswith("\\") or (command.startswith("for ") and line != "done"):
            continue
        try:
            words = shlex.split(command, comments=True)
        except ValueError:  # a quotation that goes on
            continue
        if words:
            yield re.sub(r"\s+#[^'\"]*$", "", command)
        command = ""


def why_not_run(command: str) -> str | None:
    return next((reason for beginning, reason in NOT_RUN.items() if command.startswith(beginning)), None)


def all_commands() -> list[tuple[str, str]]:
    return [(str(page.relative_to(ROOT)), command) for page in PAGES for command in commands_of(page)]


@pytest.mark.parametrize(("page", "command"), all_commands())
def test_every_command_is_run_or_listed_and_its_options_exist(page, command):
    if page not in FOLLOWED:
        assert why_not_run(command) is not None, "run it below, or say in NOT_RUN why not"
    program, *arguments = shlex.split(command, comments=True)
    if program == "dxmc":
        assert make_parser().parse_args(arguments).command is not None
    for file in re.findall(r"\b(?:benchmarks/\w+\.py|configs/\w+\.yaml|deploy/[\w/.-]+\w|cluster\.yaml)", command):
        assert (ROOT / file).exists()


@pytest.mark.parametrize("beginning", NOT_RUN)
def test_what_is_listed_is_on_a_page(beginning):
    assert any(command.startswith(beginning) for _, command in all_commands())


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder of an installed wheel, made from a copy: building leaves files beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    sources.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    for name in (*PACKAGES, "configs"):
        shutil.copytree(ROOT / name, sources / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, sources]
    subprocess.run(build, check=True, timeout=_LIMIT_S)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True, timeout=_LIMIT_S)
    return folder / "site"


def test_the_wheel_brings_the_configurations_and_all_of_the_library(installed):
    for name in PACKAGES:
        of_sources = {str(path.relative_to(ROOT)) for path in (ROOT / name).rglob("*") if path.is_file()}
        of_sources = {path for path in of_sources if "__pycache__" not in path}
        assert of_sources <= {str(path.relative_to(installed)) for path in installed.rglob("*")}
    for path in (ROOT / "configs").iterdir():
        assert (installed / "dxmc_core/configs" / path.name).read_bytes() == path.read_bytes()
    assert (installed / "bin/dxmc").is_file()


class Newcomer:
    """Types commands in a folder of their own, one after the other, with one Ray for all of them."""

    def __init__(self, folder: Path, installed: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        tools = folder / ".tools"
        tools.mkdir()
        (tools / "aws").write_text(_AWS.format(python=sys.executable))
        (tools / "aws").chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "XDG_", "AWS_"))}
        self.environment = {
            **kept,
            **environment,
            "HOME": str(folder),
            "PYTHONPATH": str(installed),
            "PATH": f"{installed / 'bin'}:{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        program = installed / "type_commands.py"
        program.write_text(_PROGRAM)
        self.log = (folder / "stderr.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, program, installed / "bin" / "dxmc"], cwd=folder, env=self.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
        )  # fmt: skip
        self.watchdog = threading.Timer(_LIMIT_S, self.process.kill)
        self.watchdog.start()
        assert Path(self._answer()).is_relative_to(installed)

    def _answer(self):
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.folder / "stderr.log").read_text()[-5000:]
        return json.loads(line)

    def types(self, command: str) -> str:
        """What a command prints; it has to succeed."""
        program, *arguments = shlex.split(command, comments=True)
        if program == "dxmc":
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(arguments) + "\n")
            self.process.stdin.flush()
            code, said = self._answer()
        else:
            done = subprocess.run(
                ["bash", "-c", f"set -o pipefail; {command}"], cwd=self.folder, env=self.environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_LIMIT_S, check=False,
            )  # fmt: skip
            code, said = done.returncode, done.stdout
        assert code == 0, f"{command}\n{said}\n{(self.folder / 'stderr.log').read_text()[-5000:]}"
        return said

    def follows(self, page: str, after: dict[str, Callable[[], None]] | None = None) -> dict[str, str]:
        """Types all that a page says; what each command printed.

        Args:
            after: what the page says to do by hand after a command, by its beginning.
        """
        printed = {}
        for command in commands_of(ROOT / page):
            if why_not_run(command) is None:
                printed[command] = self.types(command)
            for beginning, act in (after or {}).items():
                if command.startswith(beginning):
                    act()
        return printed

    def leaves(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=_LIMIT_S)
        self.watchdog.cancel()
        self.log.close()


@pytest.fixture
def newcomer(installed, s3_bucket, tmp_path) -> Iterator[Newcomer]:
    found = Newcomer(tmp_path, installed, s3_bucket.environment)
    yield found
    found.leaves()


@pytest.fixture
def my_bucket(s3_bucket) -> Iterator[None]:
    """The bucket of the pages."""
    s3_bucket.client.create_bucket(Bucket="my-bucket")
    yield
    paths = s3_bucket.client.get_paginator("list_objects_v2").paginate(Bucket="my-bucket")
    for found in (found for path in paths for found in path.get("Contents", [])):
        s3_bucket.client.delete_object(Bucket="my-bucket", Key=found["Key"])
    s3_bucket.client.delete_bucket(Bucket="my-bucket")


def small(path: Path, **changes) -> None:
    """Change a configuration, and have it use the offline encoder and a short list of nouns."""
    values = yaml.safe_load(path.read_text())
    source = {**values.get("source", {}), **changes.pop("source", {})}
    nouns = {"kind": "file", "uri": str(path.parent / "nouns.txt")}
    (path.parent / "nouns.txt").write_text("\n".join(NOUNS))
    path.write_text(
        yaml.safe_dump({**values, **changes, "source": source, "encoder": {"kind": "offline"}, "vocabulary": nouns})
    )


def yaml_blocks(page: str) -> list[dict]:
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)
    return [yaml.safe_load(block) for block in blocks]


@pytest.mark.ray
def test_the_pages_word_for_word(newcomer, my_bucket, s3_bucket, monkeypatch):
    home = newcomer.folder
    make_demo_images(home / "Pictures", per_class=3)
    (home / "Pictures/2024").mkdir()
    shutil.copy(next(home.glob("Pictures/*/*.jpg")), home / "Pictures/2024/party.jpg")
    count = len(list(home.glob("Pictures/*/*.jpg")))
    shutil.copytree(ROOT / "configs", home / "configs")
    small(home / "configs" / "laptop.yaml")

    def as_if_make_demo_had_run() -> None:
        if not (home / "runs/demo").exists():
            shutil.copytree(home / "runs/laptop", home / "runs/demo")

    printed = newcomer.follows("README.md", {"dxmc run --config configs/laptop.yaml": as_if_make_demo_had_run})
    first, second = (said for command, said in printed.items() if command.startswith("dxmc run"))
    assert f"{count} images in" in first
    assert f"{count} images in" in second
    for line in re.findall(r"^(?:next:)? +(dxmc \w+ .+)$", first, re.MULTILINE):
        newcomer.types(line)
    assert (home / "dogs.html").is_file()
    assert (home / "exports/demo").is_dir()
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)
    (of_run,) = (block for block in blocks if "runs/demo" in block)
    monkeypatch.chdir(home)
    names: dict = {}
    exec(of_run, names)
    assert len(names["assignments"]) == count

    shutil.copytree(home / "runs/laptop", home / "runs/mine")
    np.save(home / "vectors.npy", np.eye(2, EMBEDDING_WIDTH, dtype=np.float32))
    newcomer.follows("docs/SEARCH.md")
    assert (home / "served/image.index").is_file()

    for path in (home / "Pictures").glob("*/*.jpg"):
        s3_bucket.client.upload_file(str(path), "my-bucket", f"photos/{path.relative_to(home / 'Pictures')}")
    quick = {"method": {"name": "kmeans"}}
    (of_bucket,) = yaml_blocks("docs/BUCKET.md")
    printed = newcomer.follows("docs/BUCKET.md", {"dxmc init": lambda: small(home / "my.yaml", **of_bucket, **quick)})
    sample, whole, again = (said for command, said in printed.items() if command.startswith("dxmc run"))
    assert f"{count} images in" in sample
    assert f"{count} images in" in whole
    assert f"{count} images in" in again
    assert (home / "cars.html").is_file()
    assert (home / "first.html").is_file()

    nightly, _, renames = yaml_blocks("docs/OPERATIONS.md")
    del nightly["resources"]  # GPUs
    ids = json.loads(newcomer.types("dxmc run --config my.yaml --json"))["clusters"]
    s3_bucket.client.put_object(
        Bucket="my-bucket", Key="dxmc/names.yaml", Body=yaml.safe_dump({ids[0]["cluster_id"]: "mine"}).encode()
    )
    assert renames == {17: "red cars", 4: "staff at work"}
    (home / "nightly.yaml").write_text(yaml.safe_dump({**nightly, "num_clusters": len(ids)}))
    small(home / "nightly.yaml", **quick)
    newcomer.types("dxmc recluster --config nightly.yaml --mode assign")
    newcomer.types("dxmc recluster --config nightly.yaml --mode full")
    printed = newcomer.follows("docs/OPERATIONS.md")
    listed, back = (said for command, said in printed.items() if command.startswith("dxmc rollback"))
    assert re.search(r"^\* +2 .* full ", listed, re.MULTILINE)
    assert re.search(r"^\* +1 .* assign ", back, re.MULTILINE)
