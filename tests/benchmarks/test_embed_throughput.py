"""The throughput benchmark on few images: every figure is there, and the ratios follow from them."""

import json
from pathlib import Path

import embed_throughput
import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def rates(**images_per_second):
    further = {"further_images_per_second": images_per_second.pop("pipeline")}
    return {name: {"images_per_second": rate} for name, rate in images_per_second.items()} | {"pipeline": further}


def test_on_the_cpu_model_and_decoder_share_the_cores():
    options = embed_throughput._parser().parse_args(["--images", "x"])
    result = rates(model=100, decode=400, pipeline=64) | {"plain": {"further_images_per_second": 32}}
    assert embed_throughput.ratios(result, options) == {
        "seconds_over_least_seconds": 1.25,
        "target": "at most 1.15",
        "most_images_per_second": 80.0,
        "pipeline_over_model": 0.64,
        "pipeline_over_plain": 2.0,
    }


def test_on_a_gpu_the_slower_of_the_two_is_the_limit():
    options = embed_throughput._parser().parse_args(["--images", "x", "--device", "cuda"])
    found = embed_throughput.ratios(rates(model=5000, decode=2000, pipeline=1900), options)
    assert found["rate_over_rate_of_the_slower"] == 0.95
    assert found["most_images_per_second"] == 2000


@pytest.mark.slow
def test_loop_without_ray(tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(5):
        Image.fromarray(np.full((30, 40, 3), index, dtype=np.uint8)).save(photos / f"{index}.jpg")
    arguments = ["--images", str(photos), "--num-images", "40", "--without-ray", "--cores", "1"]
    embed_throughput.main([*arguments, "--output", str(tmp_path / "result.json")])
    result = json.loads((tmp_path / "result.json").read_text())
    assert json.loads(capsys.readouterr().out) == result
    for name in ("model", "decode"):
        assert result[name]["images_per_second"] > 0
    assert result["pipeline"]["further_images_per_second"] == pytest.approx(40 / result["pipeline"]["seconds"], rel=0.1)
    assert result["ratios"]["seconds_over_least_seconds"] > 0
