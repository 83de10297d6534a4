"""Rates of this machine: which are measured and from what, not how large they are."""

import io
import tempfile

import numpy as np
from PIL import Image

from dxmc_core.images.catalog import list_source
from dxmc_core.images.sources import ImagesSource
from dxmc_core.preflight.machine_rates import (
    decoding_s,
    measure_images,
    measure_rates,
    measure_typical_decoding,
    with_measured,
)
from dxmc_core.workload import Rates


def jpeg(width, height):
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noise).save(sink, "JPEG")
    return sink.getvalue()


def test_every_rate_of_the_machine_is_measured_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rates = measure_rates(Rates(), num_cores=1)
    found = {"core_flops", "int8_speedup", "core_bytes_per_s", "disk_bytes_per_s", "process_s"}
    assert set(rates.measured) == found
    assert all(getattr(rates, name) > 0 for name in found)
    assert rates.int8_speedup >= 1
    assert not list(tmp_path.iterdir())


def test_images_of_the_source_are_read_and_decoded(tmp_path):
    for number in range(40):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(64, 48))
    source = ImagesSource(uri=str(tmp_path))
    rates = measure_images(Rates(), next(list_source(source).tables()), source)
    assert set(rates.measured) == {"fetch_s", "decode_s"}
    assert rates.decode_s > 0
    assert rates.fetch_s > 0


def test_a_source_without_a_readable_image_leaves_the_assumptions(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    source = ImagesSource(uri=str(tmp_path))
    assert measure_images(Rates(), next(list_source(source).tables()), source) == Rates()


def test_files_that_are_no_images_do_not_count():
    assert decoding_s([b"", jpeg(64, 48)], max_pixels=10**8, min_size=None) is not None
    assert decoding_s([b""], max_pixels=10**8, min_size=None) is None
    assert measure_typical_decoding(Rates(), fast_jpeg=True).measured == ("decode_s",)


def test_what_was_measured_before_stays_so():
    rates = with_measured(with_measured(Rates(), decode_s=1.0), fetch_s=2.0)
    assert (rates.decode_s, rates.fetch_s, rates.measured) == (1.0, 2.0, ("decode_s", "fetch_s"))
