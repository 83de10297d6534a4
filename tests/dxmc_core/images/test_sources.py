import pytest
from pydantic import TypeAdapter

from dxmc_core.images.sources import SourceConfig, identity_of


def source_of(**values):
    return TypeAdapter(SourceConfig).validate_python(values)


@pytest.mark.parametrize("kind", ["images", "webdataset", "parquet", "embeddings"])
def test_every_kind_is_told_by_its_name(kind):
    assert source_of(kind=kind, uri="x").kind == kind


def test_limits_of_a_run_may_change_and_the_run_goes_on():
    before = identity_of(source_of(kind="images", uri="x"))
    assert identity_of(source_of(kind="images", uri="x", max_reject_fraction=0.9, timeout_s=5)) == before
    assert identity_of(source_of(kind="images", uri="x", max_pixels=1000)) != before
    assert identity_of(source_of(kind="images", uri="x", label_from="parent_folder")) != before


@pytest.mark.parametrize("kind", ["images", "webdataset", "parquet", "embeddings"])
def test_what_is_left_out_is_no_other_source(kind):
    before = identity_of(source_of(kind=kind, uri="x"))
    assert {"include", "exclude", "suffixes"}.isdisjoint(before)
    assert identity_of(source_of(kind=kind, uri="x", include=["a"], exclude="b")) == before
