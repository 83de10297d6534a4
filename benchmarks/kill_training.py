"""Kills train_heads, lets it finish, and compares the weights with those of a run left alone and of one worker.

    python benchmarks/kill_training.py --data DIR

DIR holds ucf101.npz and nouns.npz (`embeddings`, float16). Two workers train. SIGKILL takes a worker in epoch 3, after
which the run has to go on by itself, and the driver in epoch 5, after which the same command is given again.
"""

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
import yaml
from ray_processes import kill, killable, processes

from dxmc_core.artifacts.heads import load_heads
from dxmc_core.artifacts.matrices import load_matrix
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.method.fit import assign
from dxmc_core.stages.train_heads import METRICS_NAME

NUM_CLASSES = 101
_POLL_S = 0.02
_TIMEOUT_S = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--method", default="dxmc")
    parser.add_argument("--epochs", type=int, help="by default the method's own")
    parser.add_argument("--no-kills", action="store_true", help="compare one worker with two, and nothing else")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="kill-training-") as folder:
        print(json.dumps(kill_and_compare(Path(folder), options), indent=1))


def kill_and_compare(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One worker, two left alone, and two that are killed, from the same embeddings and neighbours."""
    settings = {
        "source": {"kind": "embeddings", "uri": str(options.data / "ucf101.npz")},
        "vocabulary": {"kind": "embeddings", "uri": str(options.data / "nouns.npz")},
        "num_clusters": NUM_CLASSES,
        "method": {"name": options.method, "num_epochs": options.epochs},
        "train_heads": {"checkpoint_every_s": 0},
    }
    prepared = folder / "prepared"
    finish(prepared, settings, "embed_images", "build_semantic_space", "mine_neighbors")
    runs = {name: folder / name for name in ("one", "calm", *(() if options.no_kills else ("killed",)))}
    for run_dir in runs.values():
        shutil.copytree(prepared, run_dir)
    two_workers = settings | {"resources": {"train_workers": 2}}
    report: dict[str, Any] = {"method": options.method}
    report["seconds_one_worker"] = finish(runs["one"], settings, "train_heads")
    report["seconds_left_alone"] = finish(runs["calm"], two_workers, "train_heads")
    if "killed" in runs:
        report |= kill_twice(runs["killed"], two_workers)
    return report | compare(runs)


def kill_twice(run_dir: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Kill a worker in epoch 3 and the driver in epoch 5, then give the command again."""
    report: dict[str, Any] = {}
    with running(run_dir, settings, "train_heads") as driver:
        report["worker_killed_in_epoch"] = wait_for_epoch(run_dir, driver, 3)
        kill(processes(driver, "train_worker")[0])
        wait_for_epoch(run_dir, driver, report["worker_killed_in_epoch"] + 1)
        report["driver_killed_in_epoch"] = wait_for_epoch(run_dir, driver, 5)
        kill(driver)
    report["seconds_of_last_attempt"] = finish(run_dir, settings, "train_heads")
    return report


def wait_for_epoch(run_dir: Path, driver: psutil.Popen, epoch: int) -> int:
    """The epoch that is under way, once it is this one or a later one."""
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline and driver.poll() is None:
        files = list((run_dir / "train_heads" / "checkpoints").glob(f"*/{METRICS_NAME}"))
        current = 1 + (len(files[0].read_bytes().splitlines()) if files else 0)
        if current >= epoch:
            return current
        time.sleep(_POLL_S)
    raise RuntimeError(f"epoch {epoch} did not come within {_TIMEOUT_S} s")


def finish(run_dir: Path, settings: dict[str, Any], *stages: str) -> float:
    """Run stages to the end; seconds."""
    started = time.perf_counter()
    with running(run_dir, settings, *stages) as process:
        if process.wait():
            raise RuntimeError(f"{', '.join(stages)} failed in {run_dir}")
    return round(time.perf_counter() - started, 1)


@contextmanager
def running(run_dir: Path, settings: dict[str, Any], *stages: str) -> Iterator[psutil.Popen]:
    """Stages in a process of their own; see `killable`."""
    config = run_dir.with_suffix(".yaml")
    config.write_text(yaml.safe_dump({"run_dir": str(run_dir), **settings}))
    program = f"from ray_jobs.main import main_of; main_of(*{stages!r})"
    with killable("-c", program, "--config", str(config)) as process:
        yield process


def compare(runs: dict[str, Path]) -> dict[str, Any]:
    """Whether the weights are the same to the last bit, and how many images one worker puts elsewhere."""
    images = torch.from_numpy(load_matrix(RunDir.at(str(runs["one"])).stage("embed_images"), "images").values)
    heads = {name: load_heads(RunDir.at(str(run_dir)).stage("train_heads")) for name, run_dir in runs.items()}
    one, two = (assign(heads[name], images).argmax(dim=1) for name in ("one", "calm"))
    report: dict[str, Any] = {
        "images": len(images),
        "assigned_otherwise_by_one_worker": round((one != two).double().mean().item(), 5),
    }
    if "killed" in runs:
        calm, killed = heads["calm"].state_dict(), heads["killed"].state_dict()
        report["same_weights"] = all(torch.equal(killed[name], tensor) for name, tensor in calm.items())
    return report


if __name__ == "__main__":
    main()
