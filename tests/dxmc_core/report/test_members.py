"""Pages of members: which images they show, in what order, and that nobody's text becomes markup."""

import re

import numpy as np
import pytest

from dxmc_core.report import MembersPage, ReportImage, choose_members, page_name, render_members
from dxmc_core.report.members import browser_address

EVIL = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>"


def test_all_members_are_shown_the_best_fit_first():
    cluster_ids = np.array([7, 2, 7, 2, 7])
    distances = np.array([0.5, 0.2, 0.1, 0.1, 0.9])
    chosen = choose_members(cluster_ids, distances, max_images=5)
    assert {cluster: rows.tolist() for cluster, rows in chosen.items()} == {2: [3, 1], 7: [2, 0, 4]}


def test_of_too_many_each_cluster_shows_the_same_number_evenly_spread():
    cluster_ids = np.repeat([0, 1, 2], [100, 1000, 5])
    distances = np.arange(len(cluster_ids), dtype=float)
    chosen = choose_members(cluster_ids, distances, max_images=45)
    assert [len(rows) for rows in chosen.values()] == [20, 20, 5]
    assert (chosen[1][0], chosen[1][-1]) == (100, 1099)
    steps = np.diff(chosen[1])
    assert steps.min() > 0
    assert np.ptp(steps) <= 1


@pytest.mark.parametrize("max_images", [0, 1])
def test_where_not_every_cluster_can_show_one_there_are_no_pages(max_images):
    assert choose_members(np.array([0, 1]), np.zeros(2), max_images=max_images) == {}


@pytest.fixture
def make_page(picture):
    def make(count=3, **changes):
        images = [
            ReportImage(
                image_id=f"cat/{row}.jpg", uri=f"/photos/cat {row}.jpg", sureness=row / count, thumbnail=picture(row)
            )
            for row in range(count)
        ]
        values = {"title": "trial", "cluster_id": 7, "name": "cat", "size": count, "num_shown": count}
        values |= {"page": 1, "num_pages": 1, "images": images, "runner_ups": ["dog"] * count}
        return MembersPage(**(values | changes))

    return make


def test_a_page_says_what_it_shows(make_page):
    html = render_members(make_page())
    assert "Cluster 7, all 3 images" in html
    assert html.count("data:image/webp;base64,") == 3
    assert html.count("or dog?") == 1, "only of the least sure"
    assert 'href="file:///photos/cat%200.jpg"' in html
    assert 'href="../../index.html#cluster-7"' in html
    assert 'aria-label="Pages"' not in html
    sample = render_members(make_page(num_shown=3, size=1234))
    assert "3 of 1,234 images, evenly spread from the best fit to the worst" in sample


def test_pages_link_to_one_another(make_page):
    html = render_members(make_page(page=2, num_pages=3))
    assert re.findall(r'<a href="(\S+)" data-page( aria-current="page")?', html)[:3] == [
        (page_name(7, 1), ""),
        (page_name(7, 2), ' aria-current="page"'),
        (page_name(7, 3), ""),
    ]
    assert 'href="cluster-7-3.html#doubtful"' in html


def test_hostile_names_stay_text(make_page):
    images = [ReportImage(image_id=EVIL, uri="javascript:alert(1)", sureness=0.0)]
    html = render_members(make_page(1, images=images, name=EVIL, title=EVIL, runner_ups=[EVIL]))
    assert "<script>alert" not in html
    assert "<img" not in html
    assert "javascript:" not in html


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("/a b/ü.jpg", "file:///a%20b/%C3%BC.jpg"),
        ("https://example.org/a.jpg", "https://example.org/a.jpg"),
        ("s3://bucket/a.jpg", ""),
        ("javascript:alert(1)", ""),
        ("http://[::1/a.jpg", ""),
        ("", ""),
    ],
)
def test_only_what_a_browser_opens_is_linked(uri, address):
    assert browser_address(uri) == address


@pytest.mark.browser
def test_doubtful_first_turns_the_page_and_the_way_through_the_pages(open_page, make_page):
    html = render_members(make_page(page=3, num_pages=3))
    page = open_page(html)
    ids = ".members .id"
    assert page.locator(ids).all_text_contents() == ["cat/0.jpg", "cat/1.jpg", "cat/2.jpg"]
    assert page.locator(".members img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
    turned = open_page(html, fragment="#doubtful")
    assert turned.locator(ids).all_text_contents() == ["cat/2.jpg", "cat/1.jpg", "cat/0.jpg"]
    assert turned.locator(".pages").first.locator("a").all_text_contents() == ["3", "2", "1"]
    assert turned.locator(".pages a").nth(1).get_attribute("href").endswith("/cluster-7-2.html#doubtful")
    assert turned.locator("#by-doubtful").get_attribute("aria-current") == "true"
