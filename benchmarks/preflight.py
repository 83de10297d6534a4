"""How true `dxmc preflight` is: its prediction beside the run, for several numbers of images, as one JSON document.

    python benchmarks/preflight.py --folder DIR [--num-images 300 1000 3000 10000] [--set num_clusters=20 ...]

For each number the demo's pictures are made (crops of ten scenes), the run is predicted as `dxmc preflight` does, with
this machine's rates measured just before, and `dxmc run` is run with configs/laptop.yaml: the offline encoder, its
5,475 nouns encoded anew every time. For each stage there are the predicted seconds and those by its manifest; for the
whole command, seconds from its start to its end and the most memory that its processes held together, without the files
that they map. `load_average` says how much else the machine had to do: with other work beside it a run is slowed down
by chance, and a prediction of seconds can only be as true as the machine is even.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from million import run_watched

from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.demo import SCENES, make_demo_images

CONFIG = Path(__file__).parent.parent / "configs" / "laptop.yaml"


def measure(folder: Path, num_images: int, overrides: list[str]) -> dict[str, Any]:
    """Prediction and run for one number of images."""
    images = folder / f"images-{num_images}"
    make_demo_images(images, per_class=num_images // len(SCENES))
    with tempfile.TemporaryDirectory(prefix="run-", dir=folder) as work:
        os.environ["XDG_CACHE_HOME"] = f"{work}/cache"
        run_dir = f"{work}/run"
        arguments = ["--config", str(CONFIG), "--run-dir", run_dir, "--json"]
        for override in (f"source.uri={images}", *overrides):
            arguments += ["--set", override]
        command = [sys.executable, "-m", "ray_jobs.cli"]
        started = time.perf_counter()
        preflight = subprocess.run([*command, "preflight", *arguments], check=True, stdout=subprocess.PIPE, text=True)
        preflight_s, load_average = time.perf_counter() - started, os.getloadavg()[0]
        predicted = json.loads(preflight.stdout)
        started = time.perf_counter()
        _, peak = run_watched([*command, "run", *arguments], temporary=Path(work))
        seconds = time.perf_counter() - started
        return {
            "num_images": num_images,
            "load_average": [load_average, os.getloadavg()[0]],
            "preflight_seconds": round(preflight_s, 1),
            "predicted_seconds": round(predicted["seconds"], 1),
            "seconds": round(seconds, 1),
            "predicted_over_seen": round(predicted["seconds"] / seconds, 2),
            "predicted_gib": round(predicted["memory_bytes"] / 2**30, 2),
            "peak_gib_without_files": round(peak / 2**30, 2),
            "stages": {stage["stage"]: _stage(stage, run_dir) for stage in predicted["stages"]},
            "rates": predicted["machine"]["rates"],
        }


def _stage(predicted: dict[str, Any], run_dir: str) -> dict[str, Any]:
    manifest = RunDir.at(run_dir).stage(predicted["stage"]).manifest() if "_" in predicted["stage"] else None
    return {
        "predicted_seconds": round(predicted["seconds"], 1),
        "seconds": None if manifest is None else round(manifest.seconds, 1),
        "parts": {part["name"]: round(part["seconds"], 2) for part in predicted["parts"]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-images", type=int, nargs="+", default=[300, 1000, 3000, 10_000])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    found = []
    for num_images in arguments.num_images:
        found.append(measure(arguments.folder, num_images, arguments.overrides))
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"cores": os.cpu_count(), "runs": found}, indent=1))


if __name__ == "__main__":
    main()
