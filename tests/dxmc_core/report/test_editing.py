"""Corrections in the page itself, in a real browser: by mouse, touch and keyboard; the download is an edits.yaml."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dxmc_core.edits.file import parse_edits
from dxmc_core.report import Question, render_report

pytestmark = pytest.mark.browser

EVIL = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>\u2028\x85"


@pytest.fixture(scope="module")
def data(make_report_data):
    questions = [
        Question(
            kind="merge",
            cluster_id=0,
            other_id=1,
            rows=range(6),
            other_rows=range(20, 26),
            num_images=25,
            probability=0.9,
        ),
        Question(
            kind="split",
            cluster_id=2,
            rows=range(40, 46),
            other_rows=range(50, 56),
            image_ids=["motorcycle/00040.jpg", "motorcycle/00041.jpg"],
            other_ids=["motorcycle/00050.jpg"],
            num_images=8,
            probability=0.9,
        ),
        Question(
            kind="move",
            cluster_id=3,
            other_id=2,
            rows=range(60, 66),
            other_rows=range(40, 46),
            image_ids=["rocket/00060.jpg", "rocket/00061.jpg"],
            num_images=2,
            probability=0.9,
        ),
        Question(kind="rename", cluster_id=3, rows=range(60, 66), name="spaceship"),
        Question(
            kind="merge",
            cluster_id=1,
            other_id=0,
            rows=range(20, 26),
            other_rows=range(6),
            num_images=1,
            probability=0.1,
        ),
    ]
    return make_report_data(is_editable=True, questions=questions)


@pytest.fixture(scope="module")
def html(data) -> str:
    return render_report(data)


def begin(page) -> None:
    page.get_by_role("button", name="Edit", exact=True).click()
    page.locator("#cluster-0 .mosaic .tile").first.wait_for()


def select(page, *clusters: int) -> None:
    for cluster in clusters:
        page.locator(f"#cluster-{cluster} .select-cluster").click()


def do(page, name: str) -> None:
    page.get_by_role("region", name="Corrections").get_by_role("button", name=name, exact=True).click()


def listed(page) -> list[str]:
    return page.locator("#editing-entries li span").all_text_contents()


def downloaded(page) -> list[dict]:
    """What edits.yaml holds, but for what every edit has."""
    with page.expect_download() as download:
        do(page, "Download edits.yaml")
    assert download.value.suggested_filename == "edits.yaml"
    text = Path(download.value.path()).read_text(encoding="utf-8")
    found = yaml.safe_load(text)
    assert len(parse_edits(text.encode(), "the download")) == len(found["edits"])
    for edit in found["edits"]:
        assert len(edit.pop("id")) == 8
        assert edit.pop("author") == "ann"
        assert edit.pop("at").endswith("Z")
    return found["edits"]


def test_clusters_are_merged_renamed_split_kept_and_hidden(open_page, html):
    page = open_page(html)
    begin(page)
    page.locator("#editing-list summary").click()
    page.get_by_label("Your name").fill("ann")
    page.get_by_label("Your name").blur()
    select(page, 0, 1)
    assert "cat, coffee" in page.locator("#editing-selected").inner_text()
    do(page, "Merge")
    select(page, 2)
    page.locator("#editing-name").fill("staff at work")
    do(page, "Rename")
    select(page, 2)
    do(page, "Two things")
    select(page, 3)
    do(page, "Keep as is")
    select(page, 3)
    do(page, "Hide")
    assert listed(page)[0] == "Merge cat, coffee"
    assert "staff at work" in page.locator("#cluster-2 .card-edits").inner_text()
    first, *others = downloaded(page)
    images = [f"cat/{row:05}.jpg" for row in range(5)]
    assert first["merge"]["clusters"][0] == {"id": 0, "images": images}
    assert [cluster["id"] for cluster in first["merge"]["clusters"]] == [0, 1]
    assert [next(iter(edit)) for edit in others] == ["rename", "split", "pin", "hide"]
    assert others[0]["rename"]["name"] == "staff at work"
    assert others[1]["split"]["into"] == 2


def test_pictures_are_moved_marked_and_related(open_page, html):
    page = open_page(html)
    begin(page)
    page.locator("#editing-list summary").click()
    page.get_by_label("Your name").fill("ann")

    def pick(*rows: int) -> None:
        for row in rows:
            page.locator(f'#cluster-{row // 20} .mosaic .tile[title$="/{row:05}.jpg"]').click()

    pick(1, 2)
    assert page.get_by_role("dialog").count() == 0
    page.locator("#editing-name").fill("coffee")
    do(page, "Move there")
    pick(3)
    page.locator("#editing-name").fill("tiger")
    do(page, "Examples of it")
    pick(0, 20)
    do(page, "Apart")
    pick(0, 1)
    do(page, "Together")
    pick(4, 5)
    do(page, "Split off")
    move, examples, apart, together, split = downloaded(page)
    assert move["move"]["images"] == ["cat/00001.jpg", "cat/00002.jpg"]
    assert move["move"]["to"]["id"] == 1
    assert examples["examples"] == {"of": "tiger", "images": ["cat/00003.jpg"]}
    assert apart["apart"] == {"images": ["cat/00000.jpg", "coffee/00020.jpg"]}
    assert together["together"] == {"images": ["cat/00000.jpg", "cat/00001.jpg"]}
    assert split["split"]["examples"][0] == ["cat/00004.jpg", "cat/00005.jpg"]
    assert "cat/00004.jpg" not in split["split"]["examples"][1]


def test_a_move_needs_a_cluster_that_there_is(open_page, html):
    page = open_page(html)
    begin(page)
    page.locator("#cluster-0 .mosaic .tile").first.click()
    page.locator("#editing-name").fill("no such cluster")
    do(page, "Move there")
    assert "Choose the cluster" in page.locator("#editing-error").inner_text()
    assert listed(page) == []


def test_all_of_it_by_keyboard(open_page, html):
    page = open_page(html)
    page.keyboard.press("e")
    page.locator("#cluster-0 .select-cluster").focus()
    page.keyboard.press("Space")
    page.locator("#cluster-1 .select-cluster").focus()
    page.keyboard.press("Space")
    page.keyboard.press("m")
    assert listed(page) == ["Merge cat, coffee"]
    assert page.locator("#announcer").inner_text() == "Merge cat, coffee"
    page.keyboard.press("u")
    assert listed(page) == []
    page.locator("#cluster-0 .mosaic .tile").first.focus()
    page.keyboard.press("Space")
    assert page.locator("#cluster-0 .mosaic .tile").first.get_attribute("aria-pressed") == "true"
    page.keyboard.press("Escape")
    assert page.locator(".tile[aria-pressed=true]").count() == 0
    page.keyboard.press("Escape")
    assert page.get_by_role("region", name="Corrections").count() == 0
    page.locator("#cluster-0 .mosaic .tile").first.click()
    assert page.get_by_role("dialog").count() == 1


def test_questions_by_one_key_each(open_page, html):
    page = open_page(html)
    ask = page.locator("#ask")
    assert ask.inner_text() == "5 questions"
    ask.click()
    dialog = page.get_by_role("dialog")
    assert dialog.locator("h2").inner_text() == "Do these two clusters show the same thing?"
    assert dialog.locator(".tile").count() == 12
    page.keyboard.press("y")
    assert dialog.locator("h2").inner_text().startswith("Are these two different things?")
    page.keyboard.press("n")
    assert "belong to “motorcycle”?" in dialog.locator("h2").inner_text()
    page.keyboard.press("y")
    assert dialog.locator("h2").inner_text() == "Is “spaceship” a good name for this cluster?"
    page.keyboard.press("u")
    assert "belong to “motorcycle”?" in dialog.locator("h2").inner_text()
    page.keyboard.press("y")
    page.keyboard.press("s")
    # The last one follows from the first answer.
    assert dialog.locator("h2").inner_text() == "No questions left."
    page.keyboard.press("Escape")
    page.locator("#editing-list summary").click()
    page.get_by_label("Your name").fill("ann")
    texts = ["Merge cat and coffee", "motorcycle is one thing", "Move 2 photographs from rocket to motorcycle"]
    assert listed(page) == texts
    page.reload()
    assert listed(page) == texts
    kinds = json.loads(page.evaluate("JSON.stringify(entries.map((entry) => Object.keys(entry.edit).at(-1)))"))
    assert kinds == ["merge", "together", "move"]


def test_answers_by_touch(open_page, html):
    page = open_page(html, has_touch=True)
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator("#ask").tap()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="No").tap()
    dialog.get_by_role("button", name="Close").tap()
    page.locator("#cluster-0 .mosaic .tile").first.tap()
    assert page.locator("#editing-selected").inner_text() == "Selected: 1 photograph"
    page.locator("#editing-list summary").tap()
    assert listed(page) == ["cat and coffee are not the same"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(360, 640), (390, 844), (768, 1024), (1440, 900)])
def test_everything_fits_and_nothing_pans(open_page, html, size, scheme):
    page = open_page(html, color_scheme=scheme)
    page.set_viewport_size({"width": size[0], "height": size[1]})
    assert page.locator(".mosaic").first.bounding_box()["y"] < 400
    begin(page)
    select(page, 0, 1)
    page.locator("#cluster-0 .mosaic .tile").first.click()
    page.locator("#editing-list summary").click()
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) <= size[0]
    bar = page.locator("#editing").bounding_box()
    assert bar["y"] > 0.3 * size[1]
    assert page.locator("#editing").evaluate("bar => bar.scrollWidth <= bar.clientWidth")
    page.locator("#ask").click()
    dialog = page.get_by_role("dialog")
    for part in (dialog, *(dialog.get_by_role("button", name=name) for name in ("Yes", "No", "Skip", "Close"))):
        box = part.bounding_box()
        assert box["x"] >= 0
        assert box["y"] >= 0
        assert box["x"] + box["width"] <= size[0]
        assert box["y"] + box["height"] <= size[1]
    assert dialog.evaluate("part => part.scrollWidth <= part.clientWidth")
    assert page.evaluate(width) <= size[0]


def test_controls_have_names(open_page, html):
    page = open_page(html)
    begin(page)
    select(page, 0)
    page.locator("#ask").click()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, [role=group], section, dialog")]
          .filter((part) => part.offsetParent && !part.closest("[hidden]"))
          .filter((part) => !(part.ariaLabel || part.getAttribute("aria-labelledby") || part.textContent.trim()
            || part.labels?.length))
          .map((part) => part.outerHTML)"""
    )
    assert nameless == []
    assert page.get_by_role("button", name="Select cat (cluster 0)").count() <= 1


def test_hostile_names_do_nothing_and_arrive_as_they_are(open_page, data):
    clusters = [replace(cluster, name=f"{EVIL}{cluster.cluster_id}") for cluster in data.clusters]
    images = {row: replace(image, image_id=f"{EVIL}{row}") for row, image in data.images.items()}
    page = open_page(render_report(replace(data, clusters=clusters, images=images, title=EVIL)))
    page.locator("#ask").click()
    page.keyboard.press("y")
    page.keyboard.press("y")
    page.keyboard.press("Escape")
    page.locator("#editing-list summary").click()
    page.get_by_label("Your name").fill("ann")
    page.get_by_label("Your name").blur()
    select(page, 0)
    page.locator("#editing-name").fill("<b>' }: # [")
    do(page, "Rename")
    assert page.locator("img, script[src], b:has-text('}')").count() == 0
    edits = yaml.safe_load(page.evaluate("editsFile()"))["edits"]
    assert edits[0]["merge"]["clusters"][0]["images"][0] == f"{EVIL}0"
    assert edits[2]["rename"]["name"] == "<b>' }: # ["


def test_a_page_that_no_run_listens_to_offers_no_edits(open_page, make_report_data):
    page = open_page(render_report(make_report_data()))
    page.keyboard.press("e")
    assert page.locator("#edit, #ask, #editing").count() == 0
