"""Places full of files that dxmc did not write: no command touches one of them, whether it succeeds or refuses.

A file counts as touched when it is gone, or its content, its time or (on a disk) its inode is another.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from dxmc_core.artifacts.run_dir import CHOICE_OF_K, STAGES, RunDir
from dxmc_core.artifacts.storage import Storage, is_local
from ray_jobs.cli import main

pytestmark = pytest.mark.ray

#: Several commands in one process, so that Ray starts once; the exit code of each, and what it said on stderr.
COMMANDS = """
import contextlib, io, json, sys
from ray_jobs.cli import main
results = []
for arguments in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            main(arguments)
            code = 0
        except SystemExit as end:
            code = end.code or 0
    results.append([arguments[0], code, said.getvalue()])
print(json.dumps(results))
"""


def run_commands(*commands, environment=None):
    """[(exit code, stderr)] of each command."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps([[str(word) for word in command] for command in commands])],
        env={**given, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads(done.stdout.splitlines()[-1])
    for name, _, said in results:
        assert "Traceback" not in said, f"{name}: {said}"
    return [(code, said) for _, code, said in results]


def state_of(storage: Storage) -> dict[str, tuple]:
    """Of every file its content and what changes when it is written again."""
    found = {}
    for name in storage.list_files():
        if is_local(storage.uri):
            path = Path(storage.path(name))
            content = path.readlink() if path.is_symlink() else path.read_bytes()
            found[name] = (content, path.lstat().st_mtime_ns, path.lstat().st_ino)
        else:
            info = storage.fs.info(storage.path(name))
            found[name] = (storage.read_bytes(name), str(info["LastModified"]), info["ETag"])
    return found


def plant(storage: Storage, count: int, chance: random.Random) -> dict[str, tuple]:
    """Write files into every folder of a place, under names that look like dxmc's and others; their state."""
    folders = ["", "deep/er/", *(f"{name}/" for name in (*STAGES, "report", CHOICE_OF_K, "tensorboard", "generations"))]
    folders += sorted({name.rpartition("/")[0] + "/" for name in storage.list_files() if "/" in name})
    names = set()
    while len(names) < count:
        digits, sha256 = f"{chance.getrandbits(48):012x}", f"{chance.getrandbits(128):032x}"
        name = chance.choice(
            [
                f"part-{digits}-{sha256}.parquet",
                f"part-{chance.randrange(99)}.parquet",
                f"epoch-{chance.randrange(99):06}.pt",
                f".thesis.tex.{digits[:8]}.tmp",
                f"checkpoints/{digits}/epoch-000001.pt",
                f"ray_train/{digits}-{digits[:8]}/checkpoint_manager_snapshot.json",
                f"{digits}/events.out.tfevents.1.host",
                f"thesis-{digits}.tex",
                f"IMG {digits}.jpg",
                f"[{digits}]*?.txt",
                f".{digits}",
                f"ünïcode-{digits}",
            ]
        )
        names.add(chance.choice(folders) + name)
    for name in names:
        storage.write_bytes(name, chance.randbytes(chance.randrange(64)))
    return {name: state for name, state in state_of(storage).items() if name in names}


def touched(storage: Storage, planted: dict[str, tuple]) -> list[str]:
    after = state_of(storage)
    return sorted(name for name, state in planted.items() if after.get(name) != state)


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    """Where run directories are made, and the environment for it."""
    if request.param == "local":
        return str(tmp_path / "place"), {}
    bucket = request.getfixturevalue("s3_bucket")
    return f"{bucket.uri}/place", bucket.environment


class Clustering:
    """A configuration over planted embeddings, of which there may be more every night."""

    def __init__(self, folder: Path) -> None:
        generator = np.random.default_rng(0)
        centers = np.linalg.qr(generator.normal(size=(16, 16)))[0][:3]
        self._images = np.repeat(centers, 60, axis=0) + 0.05 * generator.normal(size=(180, 16))
        self._source = folder / "images.npz"
        self.config = folder / "run.yaml"
        nouns = np.array(["apple", "bicycle", "castle"])
        np.savez(folder / "nouns.npz", embeddings=centers.astype(np.float32), nouns=nouns)
        values = {
            "run_dir": "unset",
            "source": {"kind": "embeddings", "uri": str(self._source)},
            "vocabulary": {"kind": "embeddings", "uri": str(folder / "nouns.npz")},
            "num_clusters": 3,
            "method": {"name": "kmeans"},
            "recluster": {"keep_generations": 1},
        }
        self.config.write_text(yaml.safe_dump(values))
        self.offer(120)

    def offer(self, count: int) -> None:
        ids = np.array([f"image-{row:03}" for row in range(count)])
        np.savez(self._source, embeddings=self._images[:count].astype(np.float32), image_ids=ids)

    def command(self, name: str, run_dir: str, *more: str) -> list[str]:
        return [name, "--config", str(self.config), "--run-dir", run_dir, *more]


@pytest.fixture
def clustering(tmp_path):
    folder = tmp_path / "input"
    folder.mkdir()
    return Clustering(folder)


def reading_commands(uri: str, free: Path) -> list[list[str]]:
    return [
        ["status", uri],
        ["evaluate", uri, "--confusion", str(free / "confusion.svg")],
        ["report", uri, "--output", str(free / "report.html")],
        ["search", uri, "apple", "--html", str(free / "found.html")],
        ["export", uri, "--format", "webdataset", "--output", str(free / "exported")],
        ["suggest-k", uri],
        ["rollback", uri],
        ["rollback", uri, "--to", "1"],
    ]


def test_place_of_somebody_else_is_refused_and_not_touched(place, clustering, tmp_path, amount, torture_seed):
    uri, environment = place
    storage = Storage(uri)
    planted = plant(storage, amount(30, 1000), random.Random(torture_seed))
    spellings = [uri, f"{uri}/"]
    if is_local(uri):
        (tmp_path / "link").symlink_to(uri)
        spellings += [f"{uri}/../place", str(tmp_path / "link"), str(tmp_path), str(tmp_path / "input"), "~"]
        environment = {"HOME": uri}
    commands = [
        command
        for spelling in spellings
        for name in ("run", "recluster")
        for command in [clustering.command(name, spelling)]
    ]
    before = state_of(Storage(str(tmp_path)))
    for (code, said), command in zip(run_commands(*commands, environment=environment), commands, strict=True):
        assert code == 2, (command, said)
        assert "is not empty and no run of dxmc: it has no run.json, but " in said.splitlines()[-1], command
    commands = reading_commands(uri, tmp_path / "free")
    for (code, said), command in zip(run_commands(*commands, environment=environment), commands, strict=True):
        assert code in (1, 2), (command, said)
    assert touched(storage, planted) == []
    assert len(storage.list_files()) == len(planted)
    assert state_of(Storage(str(tmp_path))) == before


def test_foreign_files_in_a_run_directory_outlive_every_command(place, clustering, tmp_path, amount, torture_seed):
    uri, environment = place
    chance, storage = random.Random(torture_seed), Storage(uri)
    [(code, said)] = run_commands(clustering.command("run", uri), environment=environment)
    assert code == 0, said
    own = set(storage.list_files())
    planted = plant(storage, amount(60, 2000), chance)
    assert own.isdisjoint(planted)
    commands = [
        clustering.command("run", uri),
        clustering.command("run", uri, "--set", "method.name=concat_kmeans"),
        clustering.command("run", uri, "--set", "seed=7", "--set", "num_clusters=auto"),
        *reading_commands(uri, tmp_path),
    ]
    codes = [code for code, _ in run_commands(*commands, environment=environment)]
    # The embeddings have neither labels nor files, and the run no generations.
    assert codes == [0, 0, 0, 0, 2, 0, 0, 2, 0, 2, 2]
    assert touched(storage, planted) == []
    for stage in STAGES:
        RunDir.at(uri).stage(stage).storage.delete("_manifest.json")
    clustering.offer(150)
    [(code, said)] = run_commands(clustering.command("run", uri), environment=environment)
    assert code == 0, said
    assert said.count("left alone, as dxmc did not write it") == len(STAGES)
    assert touched(storage, planted) == []
    # What is left of dxmc's own is what the manifests name.
    named = {"run.json"} | {
        f"{RunDir.at(uri).stage(stage).storage.uri.removeprefix(f'{uri}/')}/{name}"
        for stage in (*STAGES, CHOICE_OF_K)
        for name in (*RunDir.at(uri).stage(stage).require_manifest().names, "_manifest.json", "_own.json")
    }
    assert set(storage.list_files()) == named | set(planted)


def test_foreign_files_in_generations_outlive_nights_and_rollbacks(clustering, tmp_path, amount, torture_seed):
    """On S3 too: tests/dxmc_core/artifacts/test_generations.py."""
    uri, chance = str(tmp_path / "home"), random.Random(torture_seed)
    storage, planted = Storage(uri), {}
    for night in range(1, amount(2, 4) + 1):
        clustering.offer(110 + 10 * night)
        commands = [clustering.command("recluster", uri), ["status", uri], ["rollback", uri]]
        codes = [code for code, _ in run_commands(*commands)]
        assert codes == [0, 0, 2]  # one generation is kept
        assert touched(storage, planted) == []
        found = plant(storage.child(f"generations/{night:06}"), amount(30, 700), chance)
        planted |= {f"generations/{night:06}/{name}": state for name, state in found.items()}
    assert set(storage.list_files("generations/000001")) <= set(planted)


def test_outputs_that_are_there_are_not_replaced(make_color_run, tmp_path, capsys):
    run = make_color_run().run_dir.uri
    theirs = {name: tmp_path / name for name in ("thesis.html", "figure.svg", "taken/keep.txt")}
    (tmp_path / "taken").mkdir()
    for path in theirs.values():
        path.write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = state_of(Storage(str(tmp_path)))
    commands = [
        ["search", run, "red/0.png", "--html", theirs["thesis.html"]],
        ["evaluate", run, "--confusion", theirs["figure.svg"]],
        *(
            ["export", run, "--format", "huggingface", "--output", tmp_path / name]
            for name in ("taken", "taken/", "thesis.html", "link", "photos", "run", ".", "run/embed_images")
        ),
    ]
    for command in commands:
        with pytest.raises(SystemExit) as exit_info:
            main([str(word) for word in command])
        assert exit_info.value.code == 2, command
        assert "is there already" in capsys.readouterr().err, command
        assert state_of(Storage(str(tmp_path))) == before, command
    for _ in range(2):  # the second time it replaces its own
        for command in (["search", run, "red/0.png", "--html", tmp_path / "own.html"],
                        ["evaluate", run, "--confusion", tmp_path / "own.svg"]):  # fmt: skip
            with pytest.raises(SystemExit) as exit_info:
                main([str(word) for word in command])
            assert exit_info.value.code == 0
