"""One Ray cluster for all Ray suites, and small data whose clusters are known."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

DXMC = [sys.executable, "-m", "ray_jobs.cli"]
_START_TIMEOUT_S = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def ray_cluster():
    """The environment in which every command of the suite joins one Ray of this session, or submits jobs to it."""
    port, dashboard_port = free_port(), free_port()
    # Ray asks for a token; one of this session's own keeps its clients in and everybody else out.
    # The `python` of a submitted job is that of this environment, as on a cluster.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    ray = shutil.which("ray", path=path)
    assert ray is not None
    # In the foreground of a process of ours: `ray stop` would stop every Ray of this machine.
    process = subprocess.Popen(
        [ray, "start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--node-ip-address=127.0.0.1",
         "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}",
         f"--dashboard-agent-listen-port={free_port()}",
         "--disable-usage-stats", f"--object-store-memory={512 << 20}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )  # fmt: skip
    try:
        _wait_until_healthy([ray, "health-check", "--address", f"127.0.0.1:{port}"], process, environment)
        yield {
            **environment,
            "RAY_ADDRESS": f"127.0.0.1:{port}",
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard_port}",
        }
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_until_healthy(check: list[str], process: subprocess.Popen, environment: dict[str, str]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while subprocess.run(check, check=False, capture_output=True, env=environment).returncode != 0:
        assert process.poll() is None, f"ray start ended with exit code {process.returncode}"
        assert time.monotonic() < deadline, f"Ray did not answer within {_START_TIMEOUT_S} s"
        time.sleep(0.5)


@pytest.fixture(scope="session")
def jobs_cluster(ray_cluster):
    """The same, when its dashboard takes jobs: it starts later than the rest."""
    pytest.importorskip("aiohttp_cors", reason="Ray's dashboard comes with ray[default], of this project's extra dev")
    port = int(ray_cluster["RAY_API_SERVER_ADDRESS"].rsplit(":", 1)[1])
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return ray_cluster
        assert time.monotonic() < deadline, f"Ray's dashboard did not start within {_START_TIMEOUT_S} s"
        time.sleep(0.5)


@dataclass(frozen=True)
class Cli:
    """Runs `dxmc` as a user does: a process of its own."""

    environment: dict[str, str]

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*DXMC, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [*DXMC, *arguments], env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == code, f"exit code {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}"
        assert code == 0 or "Traceback" not in done.stderr, done.stderr
        return done


@pytest.fixture
def dxmc(ray_cluster, tmp_path):
    """`dxmc` on the session's cluster, with a cache of its own."""
    return Cli({**ray_cluster, "XDG_CACHE_HOME": str(tmp_path / "cache")})


@dataclass(frozen=True)
class Planted:
    """Embeddings in well separated groups, and nouns that lie near the groups' centres."""

    folder: Path
    num_clusters: int

    def config(self, run_dir: Path, **changes: object) -> str:
        """Write a configuration over the planted files; its path."""
        values = {
            "run_dir": str(run_dir),
            "source": {"kind": "embeddings", "uri": str(self.folder / "images.npz")},
            "vocabulary": {"kind": "embeddings", "uri": str(self.folder / "nouns.npz")},
            "num_clusters": self.num_clusters,
            "method": {"name": "dxmc", "num_epochs": 12, "batch_size": 128, "learning_rate": 0.01},
            **changes,
        }
        path = run_dir.with_suffix(".yaml")
        path.write_text(yaml.safe_dump(values))
        return str(path)


@pytest.fixture(scope="session")
def planted(tmp_path_factory) -> Planted:
    folder = tmp_path_factory.mktemp("planted")
    generator = np.random.default_rng(0)
    num_clusters, per_cluster, width = 6, 100, 32
    centers = np.linalg.qr(generator.normal(size=(width, width)))[0][:num_clusters]
    labels = np.repeat(np.arange(num_clusters), per_cluster)
    images = centers[labels] + 0.08 * generator.normal(size=(len(labels), width))
    words = ["apple", "bicycle", "castle", "dolphin", "engine", "forest"]
    nouns = np.concatenate([centers, centers + 0.1 * generator.normal(size=centers.shape)])
    np.savez(folder / "images.npz", embeddings=images.astype(np.float32), labels=np.array(words)[labels])
    np.savez(
        folder / "nouns.npz",
        embeddings=nouns.astype(np.float32),
        nouns=np.array([*words, *(f"{word} part" for word in words)]),
    )
    return Planted(folder, num_clusters)
