"""A month of nights over a bucket that changes: `dxmc recluster` on CIFAR-10's files, killed and started twice.

    python benchmarks/simulated_month.py --data DIR/cifar10_jpeg.tar.xz --folder /tmp/month
    python benchmarks/simulated_month.py --data ... --folder ... --images-first 600 --images-per-night 40 --minutes 5

Images come and go every night, one class appears, another vanishes. Some nights are killed and started again, on some
two runs start at once. With `--edit-days` a person corrects clusters on the mornings after five nights, with
`--rollback-days` a night is taken back on others; each correction has to hold from then on, and in the end all are
undone. After every night the artifacts are checked, not the log. With `--minutes` it stops after a night and the same
command goes on; the last line is a JSON document, `--markdown` writes its table.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from month_edits import NAMES, Seen, broken, corrections

from dxmc_core.artifacts.generations import Generations
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.tables import ASSIGNMENTS, CLUSTERS
from dxmc_core.edits.file import read_edits
from dxmc_core.edits.references import hidden_clusters, read_outcomes
from dxmc_core.stages.edited_clusters import is_edited

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
#: What a night is killed at: a line that the log has in every mode.
_KILL_AT = ("embed_images          starts", "recluster: ", "write_report          starts")
_LONGEST_WAIT_S = 2.0
_RESULT = "month.json"


def main() -> None:
    options = parse_options()
    month = Month(options)
    nights = load_nights(month.folder / _RESULT)
    started = time.monotonic()
    for day in range(1, options.nights + 1):
        events = month.move_images(day)
        if day <= len(nights):
            continue
        if options.minutes and time.monotonic() - started > 60 * options.minutes:
            break
        night = month.run_night(day, events)
        nights.append(night)
        (month.folder / _RESULT).write_text(json.dumps([asdict(each) for each in nights]))
        print(
            json.dumps({"night": day, "mode": night.mode, "seconds": night.seconds, "wrong": night.wrong}), flush=True
        )
    if len(nights) == options.nights:
        nights[-1].wrong += month.undo_all()
    report = summarize(nights, options)
    if options.markdown:
        Path(options.markdown).write_text(as_markdown(nights))
    print(json.dumps(report))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="cifar10_jpeg.tar.xz")
    parser.add_argument(
        "--folder", required=True, help="for the images and the generations; goes on with what is there"
    )
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--images-first", type=int, default=20_000, help="on day 1, all classes together")
    parser.add_argument("--images-per-night", type=int, default=1_000, help="that come every night")
    parser.add_argument("--deleted-per-night", type=int, default=200)
    parser.add_argument("--classes", nargs="+", default=list(CLASSES))
    parser.add_argument("--new-class", default="frog")
    parser.add_argument("--new-day", type=int, default=12)
    parser.add_argument("--new-share", type=float, default=0.5, help="of the arrivals, from the new class' day on")
    parser.add_argument("--gone-class", default="ship")
    parser.add_argument("--gone-day", type=int, default=20)
    parser.add_argument("--kill-every", type=int, default=3)
    parser.add_argument("--overlap-days", type=int, nargs="*", default=[5, 25])
    parser.add_argument("--edit-days", type=int, nargs="*", default=[], help="five at most, in ascending order")
    parser.add_argument("--rollback-days", type=int, nargs="*", default=[])
    parser.add_argument("--set", dest="settings", default="{}", metavar="JSON", help="further sections of the settings")
    parser.add_argument("--minutes", type=float, help="stop after the night in which these are over")
    parser.add_argument("--markdown", metavar="FILE")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


@dataclass
class Night:
    """What happened in one night, and what of it is wrong.

    Attributes:
        embedded: images that went through the encoder in the attempt that ended.
        seconds: of all attempts.
        classes: for each class the cluster that holds most of its images, and how many.
        of_new_class: ids of the clusters in which the new class has the majority.
    """

    day: int
    came: int
    went: int
    images: int
    events: list[str]
    mode: str = ""
    reason: str = ""
    embedded: int = 0
    seconds: float = 0.0
    lineage: dict[str, Any] = field(default_factory=dict)
    drift: dict[str, float] = field(default_factory=dict)
    classes: dict[str, tuple[int, int]] = field(default_factory=dict)
    of_new_class: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def load_nights(path: Path) -> list[Night]:
    if not path.exists():
        return []
    return [Night(**night) for night in json.loads(path.read_text())]


class Month:
    """The bucket and its nights; all chance follows from the seed, so that a month that was stopped goes on."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder = Path(options.folder)
        self.photos = self.folder / "photos"
        self.photos.mkdir(parents=True, exist_ok=True)
        # Chance of its own for what moves: a month that goes on repeats the moves of earlier nights, not their kills.
        self._moves = random.Random(options.seed)
        self._here: list[str] = []
        self._stock = self._images()
        self.home = RunDir.at(str(self.folder / "home"))
        self._config = self.folder / "nightly.yaml"
        settings = {
            "run_dir": self.home.uri,
            "source": {"uri": str(self.photos)},
            "encoder": {"kind": "offline"},
            "vocabulary": {"kind": "wordnet", "subset": "frequent"},
            "num_clusters": len(options.classes),
            **json.loads(options.settings),
        }
        self._config.write_text(yaml.safe_dump(settings))

    def _images(self) -> dict[str, Iterator[tuple[str, bytes]]]:
        """Names and contents of as many images of each class as the month may need."""
        options = self.options
        first = -(-options.images_first // (len(options.classes) - 1))
        needed = first + options.nights * options.images_per_night
        found: dict[str, list[tuple[str, bytes]]] = defaultdict(list)
        with tarfile.open(options.data, "r|*") as archive:
            for member in archive:
                label = Path(member.name).parent.name
                if label not in options.classes or len(found[label]) >= needed or not member.isfile():
                    continue
                file = archive.extractfile(member)
                assert file is not None
                found[label].append((member.name.removeprefix("./").replace("/", "-"), file.read()))
                if all(len(found[name]) >= needed for name in options.classes):
                    break
        return {label: iter(found[label]) for label in options.classes}

    def move_images(self, day: int) -> tuple[int, int]:
        """Let images come and go; how many did."""
        options = self.options
        classes = [
            label
            for label in options.classes
            if not (label == options.new_class and day < options.new_day)
            and not (label == options.gone_class and day >= options.gone_day)
        ]
        went = self._moves.sample(self._here, min(options.deleted_per_night, len(self._here))) if day > 1 else []
        if day == options.gone_day:
            went = sorted({*went, *(name for name in self._here if name.startswith(f"{options.gone_class}/"))})
        came = self._arrivals(day, classes)
        for name in went:
            (self.photos / name).unlink(missing_ok=True)
        self._here = [name for name in self._here if name not in set(went)] + came
        return len(came), len(went)

    def _arrivals(self, day: int, classes: list[str]) -> list[str]:
        options = self.options
        shares = dict.fromkeys(classes, 1.0)
        if options.new_class in classes and len(classes) > 1:
            others = len(classes) - 1
            shares[options.new_class] = others * options.new_share / (1 - options.new_share)
        count = options.images_first if day == 1 else options.images_per_night
        came = []
        for label in classes:
            for _ in range(round(count * shares[label] / sum(shares.values()))):
                name, data = next(self._stock[label], ("", b""))
                if not data:
                    raise SystemExit(f"{options.data} has too few images of {label}; ask for less a night")
                path = self.photos / label / name
                path.parent.mkdir(exist_ok=True)
                if not path.exists():  # a month that goes on must not touch what is there
                    path.write_bytes(data)
                came.append(f"{label}/{name}")
        return came

    def run_night(self, day: int, moved: tuple[int, int]) -> Night:
        """Run one night, with what disturbs it, check what it made, and do what a person does in the morning."""
        night = Night(day, *moved, len(self._here), [])
        pointer = Generations(self.home).pointer()
        before = None if pointer is None else pointer.current
        started = time.perf_counter()
        if day % self.options.kill_every == 0:
            night.events.append(self._killed(day))
        if day in self.options.overlap_days:
            night.events.append(self._overlapping(night))
        else:
            code, log = _finish(self._start())
            if code:
                raise SystemExit(f"night {day} failed with exit code {code}:\n{log}")
        night.seconds = round(time.perf_counter() - started, 1)
        self._check(night, before)
        if day in self.options.edit_days:
            self._correct(night)
        if day in self.options.rollback_days:
            self._dxmc("rollback", self.home.uri)
            night.events.append("rolled back")
        return night

    def _correct(self, night: Night) -> None:
        """Correct clusters as a person would, and look at once whether that is so."""
        seen, edits = self._seen(), read_edits(self.home).edits
        for typed in corrections(self.options.edit_days.index(night.day), seen, edits):
            self._dxmc("edit", self.home.uri, *typed)
            night.events.append(f"corrected: {typed[0]}")
        night.wrong += broken(read_edits(self.home).edits, self._seen())

    def undo_all(self) -> list[str]:
        """Take every correction back; what of them is left."""
        for edit in reversed(read_edits(self.home).edits):
            self._dxmc("edit", self.home.uri, "undo", edit.id)
        manifest = self._current().stage("assign_clusters").require_manifest()
        left = sorted(set(self._seen().names.values()) & set(NAMES))
        return (["it is still edited"] if is_edited(manifest) else []) + [f"{name!r} is still a name" for name in left]

    def _dxmc(self, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "ray_jobs.cli", *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"dxmc {' '.join(arguments)} failed with exit code {done.returncode}:\n{done.stderr}")

    def _current(self) -> RunDir:
        generations = Generations(self.home)
        pointer = generations.pointer()
        assert pointer is not None
        return generations.run_dir(pointer.current)

    def _seen(self) -> Seen:
        run_dir = self._current()
        assigned = run_dir.stage("assign_clusters")
        clusters = assigned.read_table(CLUSTERS, ["cluster_id", "name"])
        names = dict(zip(clusters["cluster_id"].to_pylist(), clusters["name"].to_pylist(), strict=True))
        return Seen(clusters_of(run_dir), names, hidden_clusters(assigned))

    def _start(self) -> subprocess.Popen:
        command = [sys.executable, "-m", "ray_jobs.recluster", "--config", str(self._config)]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def _killed(self, day: int) -> str:
        """Start a run and kill it with all its processes, at a random place; where that was."""
        chance = random.Random(f"{self.options.seed} {day}")
        place, wait_s = chance.choice(_KILL_AT), chance.uniform(0, _LONGEST_WAIT_S)
        process = self._start()
        assert process.stderr is not None
        if not any(place in line for line in process.stderr):
            process.wait()
            return "ended before its kill"
        time.sleep(wait_s)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"killed at {place.split()[0].rstrip(':')}"

    def _overlapping(self, night: Night) -> str:
        """Two runs at once: one has to work, the other to be refused."""
        results = [_finish(process) for process in [self._start(), self._start()]]
        codes = sorted(code for code, _ in results)
        if codes != [0, 2] or not any("in use by another run" in log for _, log in results):
            night.wrong.append(f"two starts ended with {codes}")
        return "two starts"

    def _check(self, night: Night, before: int | None) -> None:
        """Fill the night's figures in from its artifacts, and say what must not be.

        Args:
            before: number of the generation that was current.
        """
        generations = Generations(self.home)
        pointer = generations.pointer()
        assert pointer is not None
        record = generations.record(pointer.current)
        assert record is not None
        if (record.base, record.number) != (before, pointer.highest):
            night.wrong.append(
                f"generation {record.number} is current, and made from {record.base} in place of {before}"
            )
        night.mode, night.reason = record.mode, record.reason
        night.embedded, night.drift = record.metrics["run"]["embedded_images"], record.metrics["run"]["drift"]
        now = clusters_of(generations.run_dir(record.number))
        known = {} if before is None else clusters_of(generations.run_dir(before))
        num_new = len(now.keys() - known.keys())  # those that came, and those of a night that was taken back
        if night.embedded > num_new:
            night.wrong.append(f"{night.embedded} images were embedded, {num_new} are new")
        assigned = generations.run_dir(record.number).stage("assign_clusters")
        night.lineage = assigned.require_manifest().metrics["lineage"] or {}
        if sorted(now) != sorted(self._here):
            night.wrong.append(
                f"{len(now)} assignments, {len(self._here)} images, {len(now.keys() ^ set(self._here))} differ"
            )
        self._look_at_classes(night, now)
        night.wrong += broken(read_edits(self.home).edits, self._seen())
        # Where a rollback went behind an edit, the night applies it again, and images move as they should.
        earlier = None if before is None else generations.run_dir(before).stage("assign_clusters")
        if known and earlier is not None and _applied(earlier) == _applied(assigned):
            night.wrong += wrong_ids(known, now, mode=record.mode)

    def _look_at_classes(self, night: Night, now: dict[str, int]) -> None:
        by_cluster: dict[int, Counter[str]] = defaultdict(Counter)
        by_class: dict[str, Counter[int]] = defaultdict(Counter)
        for name, cluster in now.items():
            label = name.split("/")[0]
            by_cluster[cluster][label] += 1
            by_class[label][cluster] += 1
        night.classes = {label: counts.most_common(1)[0] for label, counts in sorted(by_class.items())}
        new = self.options.new_class
        night.of_new_class = [
            cluster for cluster, counts in sorted(by_cluster.items()) if 2 * counts[new] > counts.total()
        ]


def _finish(process: subprocess.Popen) -> tuple[int, str]:
    assert process.stderr is not None
    log = process.stderr.read()
    return process.wait(), log


def clusters_of(run_dir: RunDir) -> dict[str, int]:
    """Cluster of every image; an image that is there twice raises ValueError."""
    table = run_dir.read_table(ASSIGNMENTS, ["image_id", "cluster_id"])
    found = dict(zip(table["image_id"].to_pylist(), table["cluster_id"].to_pylist(), strict=True))
    if len(found) != table.num_rows:
        raise ValueError(f"{table.num_rows - len(found)} images have two assignments in {run_dir.uri}")
    return found


def _applied(assigned: StageDir) -> list[str]:
    return [row["edit_id"] for row in read_outcomes(assigned)]


def wrong_ids(before: dict[str, int], now: dict[str, int], *, mode: str) -> list[str]:
    """Ids that changed though nothing asked for it.

    When new images are assigned no other image may change its cluster. In a full clustering two clusters that hold
    more than half of one another must have the same id.
    """
    common = before.keys() & now.keys()
    if mode == "assign":
        moved = sum(before[name] != now[name] for name in common)
        return [f"{moved} images changed their cluster"] if moved else []
    pairs = Counter((before[name], now[name]) for name in common)
    held, holds = Counter(before[name] for name in common), Counter(now[name] for name in common)
    return [
        f"cluster {old} became {new}"
        for (old, new), count in pairs.items()
        if old != new and 2 * count > held[old] and 2 * count > holds[new]
    ]


def summarize(nights: list[Night], options: argparse.Namespace) -> dict[str, Any]:
    """What must hold, over the whole month."""
    assigned = [night for night in nights if night.mode == "assign"]
    ids_of_new_class = list(dict.fromkeys(cluster for night in nights for cluster in night.of_new_class))
    stable = [label for label in options.classes if label not in (options.new_class, options.gone_class)]
    homes = {label: [night.classes[label][0] for night in nights if label in night.classes] for label in stable}
    return {
        "nights": len(nights),
        "full_clusterings": [night.day for night in nights if night.mode == "full"],
        "wrong": [f"night {night.day}: {text}" for night in nights for text in night.wrong],
        "ids_of_new_class": ids_of_new_class,
        "classes_whose_main_cluster_changed": {
            label: ids for label, found in homes.items() if len(ids := list(dict.fromkeys(found))) > 1
        },
        "images_at_the_end": nights[-1].images if nights else 0,
        "seconds_a_night_assigned": round(sum(n.seconds for n in assigned) / max(len(assigned), 1), 1),
        "seconds": round(sum(night.seconds for night in nights), 1),
    }


def as_markdown(nights: list[Night]) -> str:
    """The table of the month."""
    lines = [
        "| night | came | went | images | mode | embedded | kept | born | ended | churn | seconds | |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for night in nights:
        lineage = night.lineage
        figures = [lineage.get(name, "") for name in ("kept", "born", "died")]
        churn = f"{lineage['churn']:.1%}" if lineage else ""
        remarks = [*night.events, *night.wrong]
        if night.mode == "full" and night.day > 1:
            remarks.append(night.reason.split(", ")[0])
        cells = [night.day, night.came, night.went, night.images, night.mode, night.embedded, *figures, churn,
                 f"{night.seconds:.0f}", "; ".join(remarks)]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
