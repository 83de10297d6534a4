"""Disturbs whole runs at random until they are through, and compares what they made with a run left alone.

    python benchmarks/kill_pipeline.py --planted 2000 --kills 40 --seed 1

Images (damaged_bucket.py's), nouns and run directories lie on an S3 server of its own. A disturbance is SIGKILL for one
process or some seconds in which nobody reaches the server. Every trial is one run directory:

- After the loss of a worker or a task the run has to go on by itself, at most two of a kind an attempt: three times a
  piece of work is tried again.
- The loss of the driver, the raylet, one of the agents that a raylet does not outlive, or Ray's control service (`gcs`)
  ends an attempt, and the same command is given again. The loss of another of Ray's own actors, and a server that is
  away or refuses the credentials, may end it: with exit code 1 or 2 and one line.
- After three reruns at most the run is through. The last attempt loses workers and tasks only.

All the while a reader reads what is published, as any user of the run directory may, and counts what is not whole.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from damaged_bucket import DamagedBucket, damaged_bucket, differences
from ray_processes import ends_within, kill, killable, processes
from s3_server import S3Server

from dxmc_core.artifacts.manifest import Manifest
from dxmc_core.artifacts.run_dir import STAGES, RunDir
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.storage import storage_errors
from dxmc_core.errors import ArtifactError
from dxmc_core.stages.train_heads import METRICS_NAME
from dxmc_core.vocabulary import WordNetConfig, load_vocabulary

#: How often each kind is chosen when there is something of it to disturb, less the more often it was before.
WEIGHTS = {
    "driver": 1.0, "raylet": 1.0, "agent": 0.3, "gcs": 0.3, "actor": 0.5,
    "map_worker": 4.0, "train_worker": 4.0, "task": 4.0, "cut_off": 2.0, "expired": 0.5,
}  # fmt: skip
#: Not a process: for some seconds nobody reaches the server, or it refuses everybody's credentials.
_OF_SERVER = ("cut_off", "expired")
_MUST_GO_ON = ("map_worker", "train_worker", "task")
_MUST_END = ("driver", "raylet", "agent", "gcs")
_LOSSES_OF_A_KIND = 2
_MAX_RERUNS = 3
_BUCKET = "damaged"
#: Seconds from the start, or from one disturbance to the next; and of a server that is away.
_WAIT_S = (2.0, 12.0)
_AWAY_S = (0.5, 8.0)
#: An attempt that has not ended after so long hangs.
_PATIENCE_S = 300.0
_READ_EVERY_S = 1.0
_MOST_FAILURES = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planted", type=int, default=2000, metavar="N", help="so many images, one in eight damaged")
    parser.add_argument("--nouns", type=int, default=300, help="so many of WordNet's frequent ones")
    parser.add_argument("--kills", type=int, default=12, help="disturbances in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=float, default=0.0, help="share of the requests that break at any time")
    options = parser.parse_args()
    report = kill_and_compare(
        options.planted, options.kills, num_nouns=options.nouns, seed=options.seed, faults=options.faults
    )
    print(json.dumps(report, indent=1))
    sys.exit(0 if report["holds"] else 1)


def kill_and_compare(
    num_images: int, num_disturbances: int, *, num_nouns: int = 300, seed: int = 0, faults: float = 0.0
) -> dict[str, Any]:
    """One run that is left alone, and as many others as it takes to disturb them so often."""
    started = time.perf_counter()
    tally = Tally()
    chance = random.Random(seed)
    with damaged_bucket(num_images, faults=faults, seed=seed) as bucket:
        os.environ.update(bucket.server.environment)
        settings = _settings(bucket, num_nouns)
        calm = Trial("calm", settings, bucket.server)
        calm_started = time.perf_counter()
        of_calm = Tally()
        calm.run(chance, 0, of_calm)
        tally.failures += of_calm.failures
        calm_seconds = time.perf_counter() - calm_started
        artifacts = artifacts_of(calm.run_dir)
        same: Counter[str] = Counter()
        wrong: list[str] = []
        while tally.num_disturbances < num_disturbances and len(tally.failures) < _MOST_FAILURES:
            trial = Trial(f"disturbed-{tally.trials:03}", settings, bucket.server)
            tally.trials += 1
            if trial.run(chance, num_disturbances - tally.num_disturbances, tally):
                same.update(name for name, is_same in compare(trial.run_dir, calm.run_dir).items() if is_same)
                wrong += differences(bucket, trial.run_dir)
        broken = dict(bucket.server.faults.counts)
    report = {
        "images": num_images,
        "seed": seed,
        "disturbances": dict(tally.disturbances),
        "during": dict(tally.during),
        **{name: getattr(tally, name) for name in ("trials", "attempts", "reruns", "most_reruns", "ended_by")},
        "hanging_after": dict(tally.hanging_after),
        "failures": tally.failures,
        "reads": tally.reads,
        "partial_reads": tally.partial_reads[:20],
        "same_artifacts": {name: f"{same[name]} of {tally.trials}" for name in artifacts},
        "otherwise_than_planted": wrong[:20],
        "broken_requests": broken,
        "seconds_left_alone": round(calm_seconds, 1),
        "seconds": round(time.perf_counter() - started, 1),
    }
    all_same = all(same[name] == tally.trials for name in artifacts)
    return report | {"holds": all_same and not (wrong or tally.failures or tally.partial_reads)}


def _settings(bucket: DamagedBucket, num_nouns: int) -> dict[str, Any]:
    nouns = load_vocabulary(WordNetConfig(subset="frequent")).nouns
    chosen = nouns[:: max(len(nouns) // num_nouns, 1)][:num_nouns]
    bucket.server.client().put_object(Bucket=_BUCKET, Key="nouns.txt", Body="\n".join(chosen).encode())
    return {
        "source": {"uri": bucket.uri},
        "encoder": {"kind": "offline"},
        "vocabulary": {"kind": "file", "uri": f"s3://{_BUCKET}/nouns.txt"},
        "num_clusters": 8,
        "method": {"name": "dxmc", "num_epochs": 12, "batch_size": 64},
        "train_heads": {"checkpoint_every_s": 0},
        "resources": {"train_workers": 2},
    }


@dataclass
class Tally:
    """What was done to the runs, and what came of it.

    Attributes:
        during: the stages under way when it was done.
        ended_by: disturbances that may end an attempt, and did.
        hanging_after: attempts that had to be killed after one of `_MUST_END`.
        failures: what must not be, a line each.
    """

    disturbances: Counter[str] = field(default_factory=Counter)
    during: Counter[str] = field(default_factory=Counter)
    trials: int = 0
    attempts: int = 0
    reruns: int = 0
    most_reruns: int = 0
    ended_by: Counter[str] = field(default_factory=Counter)
    hanging_after: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    reads: int = 0
    partial_reads: list[str] = field(default_factory=list)

    @property
    def num_disturbances(self) -> int:
        return self.disturbances.total()


class Trial:
    """One run directory, and the attempts that it takes to fill it."""

    def __init__(self, name: str, settings: dict[str, Any], server: S3Server) -> None:
        self.run_dir = RunDir.at(f"s3://{_BUCKET}/runs/{name}")
        cache = f"s3://{_BUCKET}/nouns/{name}"
        space = {"noun_cache_uri": cache}
        self._settings = {"run_dir": self.run_dir.uri, "build_semantic_space": space, **settings}
        self._server = server

    def run(self, chance: random.Random, num_disturbances: int, tally: Tally) -> bool:
        """Give the command until the run is through, and disturb it so often at most; whether it got through."""
        before = tally.num_disturbances
        with watched(self.run_dir, tally):
            for attempt in range(1 + _MAX_RERUNS):
                tally.attempts += 1
                tally.reruns += attempt > 0
                left = num_disturbances - (tally.num_disturbances - before)
                kinds = tuple(WEIGHTS) if attempt < _MAX_RERUNS else _MUST_GO_ON
                is_through = self._attempt(chance, left, kinds, tally)
                if is_through:
                    break
        tally.most_reruns = max(tally.most_reruns, attempt)
        if not is_through:
            tally.failures.append(f"{self.run_dir.uri} was not through after {_MAX_RERUNS} reruns")
        return is_through

    def _attempt(self, chance: random.Random, left: int, kinds: Sequence[str], tally: Tally) -> bool:
        """Give the command once; whether the run is through."""
        with tempfile.TemporaryDirectory(prefix="kill-pipeline-") as folder:
            config = Path(folder) / "run.yaml"
            config.write_text(yaml.safe_dump(self._settings))
            log = Path(folder) / "log"
            command = ("-m", "ray_jobs.run_pipeline", "--config", str(config))
            with log.open("w") as stderr, killable(*command, stderr=stderr) as process:
                done = self._disturb(process, chance, left, kinds, log, tally)
                is_hanging = not ends_within(process, _PATIENCE_S)
                if is_hanging:
                    _dump_stacks(process)
            if is_hanging and done and done[-1] in _MUST_END:
                tally.hanging_after[done[-1]] += 1
            lines = log.read_text().splitlines()
            judged = _judge(process.returncode, done, lines, is_hanging=is_hanging)
            said = lines[-1] if lines else ""
            print(f"{self.run_dir.uri}: {done}, exit code {process.returncode}: {said}", file=sys.stderr, flush=True)
            if judged is not None:
                tally.failures.append(f"{self.run_dir.uri} after {done}: {judged}")
            if process.returncode:
                tally.ended_by[done[-1] if done else "nothing"] += 1
        return process.returncode == 0

    def _disturb(
        self,
        process: psutil.Popen,
        chance: random.Random,
        left: int,
        kinds: Sequence[str],
        log: Path,
        tally: Tally,
    ) -> list[str]:
        """Disturb a running attempt until it ends or is to be left alone; what was done to it, in order."""
        done: list[str] = []
        while len(done) < left and not ends_within(process, chance.uniform(*_WAIT_S)):
            open_to = [kind for kind in kinds if kind not in _MUST_GO_ON or done.count(kind) < _LOSSES_OF_A_KIND]
            found = {kind: processes(process, kind) for kind in open_to if kind not in _OF_SERVER}
            there = [kind for kind in open_to if kind in _OF_SERVER or found[kind]]
            if not there:
                continue
            weights = [WEIGHTS[kind] / (1 + tally.disturbances[kind]) for kind in there]
            [kind] = chance.choices(there, weights)
            tally.disturbances[kind] += 1
            tally.during[_stage_under_way(log)] += 1
            if kind in _OF_SERVER:
                with self._server.cut_off() if kind == "cut_off" else self._server.refusing(kind):
                    ends_within(process, chance.uniform(*_AWAY_S))
            else:
                kill(chance.choice(found[kind]))
            done.append(kind)
            if kind in _MUST_END:
                break
        return done


def _stage_under_way(log: Path) -> str:
    """The stage that an attempt has begun last, by its log."""
    begun = [line.split()[1] for line in log.read_text().splitlines() if " starts (fingerprint " in line]
    return begun[-1] if begun else "before the first stage"


def _judge(code: int, done: list[str], log: list[str], *, is_hanging: bool) -> str | None:
    """What is wrong with the way in which an attempt ended, or None."""
    tail = " | ".join(log[-12:])
    if is_hanging:
        return f"it hung: {tail}"
    if code == 0:
        return None
    if not done or set(done) <= set(_MUST_GO_ON):
        return f"exit code {code}: {tail}"
    if done[-1] in _MUST_END:
        return None
    if code not in (1, 2) or not log or not log[-1].startswith("error: ") or any("Traceback" in line for line in log):
        return f"exit code {code} without one clear line: {tail}"
    return None


@contextmanager
def watched(run_dir: RunDir, tally: Tally) -> Iterator[None]:
    """Read all that is published in a run directory, again and again, in a thread."""
    stop = threading.Event()
    seen: dict[str, Manifest] = {}

    def watch() -> None:
        while not stop.wait(_READ_EVERY_S):
            for name in STAGES:
                stage = run_dir.stage(name)
                with suppress(*storage_errors()):  # the server is away
                    try:
                        _check_published(stage, seen)
                        tally.reads += name in seen
                    except ArtifactError as error:
                        tally.partial_reads.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=watch, daemon=True, name="reader")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _check_published(stage: StageDir, seen: dict[str, Manifest]) -> None:
    """Read everything that a stage's manifest names; it must be whole, and the same as before.

    Raises:
        ArtifactError: it is not.
    """
    manifest = stage.manifest()
    before = seen.get(stage.stage)
    if before is not None and manifest != before:
        raise ArtifactError(f"{stage.storage.uri} was published and is gone, or other than it was")
    if manifest is None:
        return
    for table, parts in manifest.tables.items():
        rows = sum(stage.read_part(part).num_rows for part in parts)
        if rows != manifest.rows(table):
            raise ArtifactError(f"{stage.storage.uri}: {table} has {rows} rows, expected {manifest.rows(table)}")
    for part in manifest.files.values():
        stage.read_part_bytes(part)
    seen[stage.stage] = manifest


def artifacts_of(run_dir: RunDir) -> list[str]:
    """The tables and files of a finished run, `stage/name` each; without the report."""
    names = []
    for stage in STAGES[:-1]:  # the report names the run directory and the hour
        manifest = run_dir.stage(stage).require_manifest()
        names += [f"{stage}/{name}" for name in (*manifest.tables, *manifest.files)]
    return names


def compare(found: RunDir, expected: RunDir) -> dict[str, bool]:
    """Whether two finished runs made the same, by table and file."""
    same = {}
    for name in artifacts_of(expected):
        stage, _, artifact = name.partition("/")
        ours, theirs = (_content(run_dir.stage(stage), artifact) for run_dir in (found, expected))
        same[name] = ours == theirs
    return same


def _content(stage: StageDir, name: str) -> Any:
    """A table in the order of its rows as text, or a file; without what tells of time."""
    manifest = stage.require_manifest()
    if name not in manifest.tables:
        data = stage.read_file(name)
        if name != METRICS_NAME:
            return data
        timings = ("seconds", "samples_per_s")
        lines = [json.loads(line) for line in data.splitlines()]
        return [{key: value for key, value in line.items() if key not in timings} for line in lines]
    if not manifest.tables[name]:
        return None
    table = pa.concat_tables([stage.read_part(part) for part in manifest.tables[name]])
    return table.take(pc.sort_indices(pa.table({"key": table[0]}), [("key", "ascending")]))


def _dump_stacks(process: psutil.Popen) -> None:
    """What hangs, on stderr, for a person."""
    for child in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):
            print(child.pid, child.status(), " ".join(child.cmdline())[:120], file=sys.stderr)


if __name__ == "__main__":
    main()
