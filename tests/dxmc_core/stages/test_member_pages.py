"""Pages of members in the folder of the report: what a killed run wrote is kept, and others' files are not touched."""

import pyarrow as pa
import pytest

from dxmc_core.stages.member_pages import WriteMembers, members_folder, plan_members

FINGERPRINT = "b" * 32


@pytest.fixture
def run(make_color_run):
    return make_color_run()


def write(run, max_images=100):
    pages, members = plan_members(run.run_dir, max_images)
    output = run.run_dir.stage("write_report")
    writer = WriteMembers(output, members, run.config.source, fingerprint=FINGERPRINT, title="colours")
    return pages, writer(pa.Table.from_pylist(pages)).to_pylist()


def test_every_image_is_on_a_page_of_its_cluster(run):
    pages, written = write(run)
    assert [(page["name"], page["size"], page["num_shown"]) for page in pages] == [
        ("red", 4, 4),
        ("green", 4, 4),
        ("blue", 4, 4),
    ]
    storage = run.run_dir.stage("write_report").storage
    for page, part in zip(pages, written, strict=True):
        html = storage.read_bytes(part["name"]).decode()
        assert part["bytes"] == len(html.encode())
        assert html.count("data:image/webp;base64,") == 4
        assert [image_id in html for image_id in run.image_ids].count(True) == 4
        assert f"Cluster {page['cluster_id']}" in html
    assert sum(part["num_images"] for part in written) == 12


def test_clusters_show_fewer_where_the_bound_is_lower(run):
    pages, _ = write(run, max_images=6)
    assert [page["num_shown"] for page in pages] == [2, 2, 2]
    assert write(run, max_images=2)[1] == []


def test_a_page_that_is_there_is_not_made_again(run):
    _, first = write(run)
    for path in run.photos.iterdir():
        path.unlink()
    assert write(run)[1] == first


def test_a_file_that_has_gone_has_no_picture(run):
    for path in list(run.photos.iterdir())[:12]:
        path.unlink()
    _, written = write(run)
    html = run.run_dir.stage("write_report").storage.read_bytes(written[0]["name"]).decode()
    assert html.count("no picture") == 4


def test_publishing_keeps_the_pages_named_and_removes_those_of_earlier_attempts(run):
    output = run.run_dir.stage("write_report")
    foreign = f"{members_folder(FINGERPRINT)}/notes.html"
    output.begin("c" * 32)
    earlier = f"{members_folder('c' * 32)}/cluster-1-2.html"
    output.storage.write_bytes(earlier, b"earlier")
    output.storage.write_bytes(foreign, b"mine")
    output.begin(FINGERPRINT)
    _, written = write(run)
    files = {part["name"]: output.describe_file(part["name"]) for part in written}
    output.publish(fingerprint=FINGERPRINT, inputs={}, tables={}, files=files, seconds=1.0)
    left = set(output.storage.list_files())
    assert left >= {*files, foreign}
    assert earlier not in left
