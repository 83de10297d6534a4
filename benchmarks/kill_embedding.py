"""Kills embed_images at random, lets it finish, and compares the result with that of a run left alone.

    python benchmarks/kill_embedding.py --planted 6000 --kills 20
    python benchmarks/kill_embedding.py --source s3://bucket/photos --run-dirs s3://bucket/runs --kills 20

With `--planted` the source is damaged_bucket.py's, on an S3 server of its own, and the runs are in the same bucket.
Each attempt is the stage as a user starts it, with a Ray of its own. The victim of a kill (SIGKILL) is the driver, a
worker, or the raylet, which is what the loss of a machine is. After the loss of a worker the run has to go on by
itself; after the others the same command is given again.
"""

import argparse
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import yaml
from damaged_bucket import damaged_bucket, differences
from ray_processes import ends_within, kill, killable, processes

from dxmc_core.artifacts.manifest import Manifest
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.tables import table_named
from dxmc_core.images.catalog import read_catalog

VICTIMS = ("driver", "map_worker", "raylet")
_POLL_S = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planted", type=int, metavar="N", help="so many objects, every eighth of them damaged")
    parser.add_argument("--faults", type=float, default=0.0, help="with --planted: share of the requests that break")
    parser.add_argument("--source", metavar="URI", help="images, as source.uri takes them")
    parser.add_argument("--run-dirs", metavar="URI", help="two run directories are made below it")
    parser.add_argument("--set", dest="settings", default="{}", metavar="JSON", help="further sections of the settings")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest-wait", type=float, default=15.0, help="seconds from workers at work to a kill")
    options = parser.parse_args()
    if options.planted:
        with damaged_bucket(options.planted, faults=options.faults, seed=options.seed) as bucket:
            os.environ.update(bucket.server.environment)
            report = kill_and_compare(bucket.uri, "s3://damaged/runs", options)
            wrong = differences(bucket, RunDir.at("s3://damaged/runs/killed"))
            report |= {"otherwise_than_planted": wrong[:20], "broken_requests": dict(bucket.server.faults.counts)}
    elif options.source and options.run_dirs:
        report = kill_and_compare(options.source, options.run_dirs, options)
    else:
        parser.error("give --planted, or --source and --run-dirs")
    print(json.dumps(report, indent=1))


def kill_and_compare(source: str, run_dirs: str, options: argparse.Namespace) -> dict[str, Any]:
    """A run that is killed and then finished, and one that is left alone."""
    settings = {"source": {"uri": source}, "encoder": {"kind": "offline"}, **json.loads(options.settings)}
    killed, calm = (Attempts(f"{run_dirs}/{name}", settings) for name in ("killed", "calm"))
    started = time.perf_counter()
    report = kill_at_random(killed, options.kills, seed=options.seed, longest_wait_s=options.longest_wait)
    if not killed.is_done():
        killed.finish()
    report["seconds_with_kills"] = round(time.perf_counter() - started, 1)
    report["seconds_left_alone"] = calm.finish().seconds
    return report | compare(killed.stage, calm.stage)


class Attempts:
    """Attempts to get one run's embed_images done, a process each."""

    def __init__(self, run_dir: str, settings: dict[str, Any]) -> None:
        self._settings = {"run_dir": run_dir, **settings}
        self.stage: StageDir = RunDir.at(run_dir).stage("embed_images")

    def is_done(self) -> bool:
        return self.stage.manifest() is not None

    def finish(self) -> Manifest:
        """Run to the end, in one attempt."""
        with self.running() as process:
            if process.wait():
                raise RuntimeError(f"a run that nobody disturbed failed: {self._settings['run_dir']}")
        return self.stage.require_manifest()

    @contextmanager
    def running(self) -> Iterator[psutil.Popen]:
        """One attempt; whatever of it is left at the end of the block is killed."""
        with TemporaryDirectory(prefix="kill-embedding-") as folder:
            config = Path(folder) / "run.yaml"
            config.write_text(yaml.safe_dump(self._settings))
            with killable("-m", "ray_jobs.embed_images", "--config", str(config)) as process:
                yield process


def kill_at_random(
    attempts: Attempts, kills: int, *, seed: int, longest_wait_s: float, victims: tuple[str, ...] = VICTIMS
) -> dict[str, Any]:
    """Kill so often, if the run is not done before; what was killed, and how often a run failed without its driver
    or raylet having been killed, which must not be."""
    chance = random.Random(seed)
    killed: list[str] = []
    failures = attempted = 0
    while len(killed) < kills and not attempts.is_done():
        attempted += 1
        with attempts.running() as process:
            while len(killed) < kills:
                victim, wait_s = chance.choice(victims), chance.uniform(0, longest_wait_s)
                if not _wait_for_workers(process) or ends_within(process, wait_s):
                    failures += process.wait() != 0
                    break
                if _kill_one(process, victim):
                    killed.append(victim)
                if victim != "map_worker":
                    break
            else:
                failures += killed[-1] == "map_worker" and process.wait() != 0
    return {"kills": dict(Counter(killed)), "attempts": attempted, "failures": failures, **rows_written(attempts.stage)}


def rows_written(stage: StageDir) -> dict[str, int]:
    """Rows of all parts that lie there, and how many of them are there more than once."""
    catalog = read_catalog(stage)
    if catalog is None or stage.manifest() is not None:
        return {}
    times = np.zeros(catalog.num_rows, dtype=np.int64)
    for table in ("images", "rejects"):
        for _, row_ids in stage.staged_row_ids(table, fingerprint=catalog.manifest.fingerprint):
            times[row_ids] += 1
    return {"rows_done": int((times > 0).sum()), "rows_written_again": int((times - 1).clip(0).sum())}


def compare(found: StageDir, expected: StageDir) -> dict[str, Any]:
    """Whether two finished stages have the same tables, and the catalog's rows in them exactly once."""
    manifest = found.require_manifest()
    report: dict[str, Any] = {"rows": manifest.rows("catalog"), "rows_resumed": manifest.metrics["rows_resumed"]}
    row_ids = np.concatenate(
        [found.read_table(table_named(table), ["row_id"])["row_id"].to_numpy() for table in _tables(manifest)]
    )
    report["each_row_once"] = np.array_equal(np.sort(row_ids), np.arange(report["rows"]))
    for table in ("images", "rejects"):
        ours, theirs = (
            stage.read_table(table_named(table)).sort_by("row_id") if stage.require_manifest().tables[table] else None
            for stage in (found, expected)
        )
        report[f"same_{table}"] = ours == theirs
    return report


def _tables(manifest: Manifest) -> list[str]:
    return [table for table in ("images", "rejects") if manifest.tables[table]]


def _wait_for_workers(driver: psutil.Popen) -> bool:
    """Until there are workers; False when the driver ends before."""
    while driver.poll() is None:
        if processes(driver, "map_worker"):
            return True
        time.sleep(_POLL_S)
    return False


def _kill_one(driver: psutil.Popen, victim: str) -> bool:
    """Kill a process of a kind if there is one; whether there was."""
    found = processes(driver, victim)
    for process in found[:1]:
        kill(process)
    return bool(found)


if __name__ == "__main__":
    main()
