"""The page as text: what is there, what is left out, and that nobody's text becomes markup."""

import base64
import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest

from dxmc_core.report import (
    Changes,
    Curve,
    KEvidence,
    MapPoints,
    Move,
    NounEvidence,
    PastCluster,
    QualityList,
    Reject,
    Rejects,
    ReportCluster,
    ReportData,
    ReportImage,
    Score,
    Series,
    StageTiming,
    SuggestedK,
    TreeNode,
    render_report,
)

EVIL = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>"
MOMENT = datetime(2026, 1, 2, tzinfo=UTC)
VOID = {"meta", "link", "input", "br", "img", "line", "path", "rect", "circle"}


class Page(HTMLParser):
    """Tags with their attributes, text by element, and whether elements are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def sections(self) -> set[str]:
        return {attributes["id"] for tag, attributes in self.tags if tag == "section"}

    def all_text(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def full_data(make_report_data):
    data = make_report_data(
        source="s3://bucket/photos/",
        method="dxmc",
        encoder="offline",
        encoder_note="A stand-in for CLIP.",
        scores=[
            Score(name="NMI", value=0.5881, kind="external"),
            Score(name="silhouette", value=0.1, kind="label_free"),
        ],
        low_confidence=[3, 25],
        outliers=[44],
        quality_lists=[QualityList("Dark", "Hardly any light.", 1234, [5, 6])],
        rejects=Rejects(
            counts={"truncated": 2, "not_an_image": 1},
            examples=[Reject(image_id="bad.jpg", reason="truncated", message="12 bytes short")],
        ),
        curves=[Curve(title="Loss: total", series=[Series(name="total", x=[1, 2], y=[3.0, 2.0])])],
        tree=TreeNode(name="thing", size=80, children=[TreeNode(name="cat", size=20, cluster_id=0)]),
        changes=Changes(
            previous_run="runs/before",
            num_new=12,
            born=[1],
            died=[PastCluster(name="teapot", size=9)],
            moves=[Move(origin="teapot", destination="cat", destination_id=0, num_images=4)],
        ),
        timings=[StageTiming(stage="embed_images", seconds=90, rows=900), StageTiming(stage="train_heads", seconds=30)],
        settings={"method.name": "dxmc"},
        versions={"ray": "2.60.0"},
    )
    clusters = [
        replace(
            cluster,
            label_counts={"animal": 15, "thing": 5},
            near_duplicates=[(cluster.exemplars[0], cluster.exemplars[1])],
            num_near_duplicates=12,
        )
        for cluster in data.clusters
    ]
    return replace(data, clusters=clusters)


@pytest.fixture(scope="module")
def full_html(full_data) -> str:
    return render_report(full_data)


def test_full_report_has_every_section_and_is_well_formed(full_html):
    page = Page(full_html)
    assert page.open == []
    assert page.sections() == {"changes", "map", "clusters", "tree", "labels", "doubtful", "quality", "rejects", "run"}
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert {f"#{section}" for section in page.sections()} <= links


def test_full_report_says_what_it_should(full_html):
    text = Page(full_html).all_text()
    for said in (
        "130 photographs fell into 4 clusters; 3 could not be used.",
        "A stand-in for CLIP.",
        "Dark 1,234",
        "Hardly any light. The first 2.",
        "doubtful",
        "cluster 3",
        "from s3://bucket/photos/",
        "0.588",
        "2 min 0 s",
        "teapot had 9",
        "4 from teapot to cat",
        "12 bytes short",
        "2 truncated, 1 not an image",
        "75 %",
        "71 %",
        "+20",
        "method.name",
        "2 January 2026, 03:04",
    ):
        assert said in text, said


def test_every_fragment_link_has_its_target_and_ids_are_unique(full_html):
    page = Page(full_html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name, ids[0]) in ids, (tag, attributes)
        href = attributes.get("href") or ""
        if href.startswith("#"):
            assert href[1:] in ids


def test_only_what_has_data_is_there(make_report_data):
    page = Page(render_report(make_report_data(pictures=False, map_points=None)))
    assert page.open == []
    assert page.sections() == {"clusters"}
    assert not any("sheet-" in (attributes.get("id") or "") for _, attributes in page.tags)


def test_an_empty_run_renders():
    data = ReportData(title="nothing", created_at=MOMENT, num_images=0, clusters=[])
    text = Page(render_report(data)).all_text()
    assert "0 images fell into 0 clusters" in text


def test_nothing_comes_from_outside(full_html):
    for tag, attributes in Page(full_html).tags:
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            address = attributes.get(name)
            assert address is None or address.startswith(("#", "data:")), (tag, address)
        assert "style" not in attributes, "the policy blocks style attributes"
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    styles = re.findall(r"<style>(.*?)</style>", full_html, re.S)
    assert len(styles) == 1
    assert "@import" not in styles[0]
    assert "url(" not in styles[0]


def test_policy_allows_exactly_the_inline_style_and_script(full_html):
    page = Page(full_html)
    policy = next(
        attributes["content"]
        for tag, attributes in page.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    style, script = (re.search(rf"<{tag}>(.*?)</{tag}>", full_html, re.S).group(1) for tag in ("style", "script"))

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert directives == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": source(style),
        "script-src": source(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_hostile_text_anywhere_stays_text(make_report_data):
    data = make_report_data()
    tags = [tag for tag, _ in Page(render_report(evil_version(data, "x" * len(EVIL)))).tags]
    html = render_report(evil_version(data, EVIL))
    page = Page(html)
    assert [tag for tag, _ in page.tags] == tags
    assert page.open == []
    assert EVIL in "".join(page.text)
    assert "<script>alert" not in html
    assert "<img" not in html


def evil_version(data: ReportData, text: str) -> ReportData:
    """Every text of the report replaced."""
    evidence = [NounEvidence(noun=text, synset_id=text, share=0.5, margin=0.1)]
    clusters = [
        replace(cluster, name=text, names=[text + " too"], evidence=evidence, label_counts={text: 3})
        for cluster in data.clusters
    ]
    images = {row: replace(image, image_id=f"{text}{row}", uri=text, label=text) for row, image in data.images.items()}
    return replace(
        data,
        title=text,
        source=text,
        method=text,
        encoder=text,
        encoder_note=text,
        item=(text, text),
        clusters=clusters,
        images=images,
        low_confidence=[1, 2],
        outliers=[3],
        quality_lists=[QualityList(text, text, 2, [4])],
        scores=[Score(name=text, value=0.5, kind="external", meaning=text)],
        rejects=Rejects(counts={text: 1}, examples=[Reject(image_id=text, reason=text, message=text, uri=text)]),
        curves=[Curve(title=text, series=[Series(name=text, x=[1, 2], y=[1, 2])], x_label=text, y_label=text)],
        tree=TreeNode(name=text, size=3, children=[TreeNode(name=text, size=1, cluster_id=0)]),
        changes=Changes(
            previous_run=text,
            died=[PastCluster(name=text, size=1)],
            moves=[Move(origin=text, destination=text, num_images=2)],
        ),
        timings=[StageTiming(stage=text, seconds=1, note=text)],
        settings={text: text},
        versions={text: text},
    )


def test_file_names_that_are_not_unicode_can_be_written(make_report_data):
    data = make_report_data(pictures=False)
    images = data.images | {0: replace(data.images[0], image_id="caf\udce9.jpg")}
    html = render_report(replace(data, images=images))
    assert b"caf\\udce9.jpg" in html.encode("utf-8")


def test_figures_that_are_not_numbers_are_shown_as_unknown(make_report_data):
    data = make_report_data(pictures=False)
    unknown = float("nan")
    evidence = [NounEvidence(noun="cat", share=unknown, margin=unknown)]
    clusters = [replace(cluster, doubtful_share=unknown, evidence=evidence) for cluster in data.clusters]
    images = {row: replace(image, sureness=float("nan"), outlier_score=None) for row, image in data.images.items()}
    text = Page(render_report(replace(data, clusters=clusters, images=images, low_confidence=[1]))).all_text()
    assert "nan" not in text.lower()


def test_rendering_is_deterministic(full_data, full_html):
    assert render_report(full_data) == full_html


def test_pictures_stay_within_the_budget(make_report_data, picture):
    data = make_report_data(num_clusters=1)
    images = {
        row: replace(image, thumbnail=picture(row, size=(256, 256)) if image.thumbnail else None)
        for row, image in data.images.items()
    }
    data = replace(data, images=images)
    assert picture_bytes(render_report(data, max_bytes=6_000)) <= 6_000 < picture_bytes(render_report(data))


def picture_bytes(html: str) -> int:
    return sum(len(text) for text in re.findall(r"data:image/webp[^<]*", html))


def test_incomplete_data_are_refused(make_report_data):
    with pytest.raises(ValueError, match="row 0"):
        render_report(replace(make_report_data(pictures=False), images={}))


def test_many_clusters_show_a_profile_of_sizes(make_report_data):
    clusters = [ReportCluster(cluster_id=index, size=200 - index, name=f"noun {index}") for index in range(100)]
    timings = [StageTiming(stage="train_heads", seconds=30)]
    data = make_report_data(pictures=False, clusters=clusters, map_points=None, images={}, timings=timings)
    page = Page(render_report(data))
    assert "200 in noun 0 , 150 in the middle one, 101 in the smallest" in page.all_text()


def test_an_image_in_no_cluster_has_a_place_on_the_map():
    data = ReportData(
        title="t",
        created_at=MOMENT,
        num_images=1,
        clusters=[ReportCluster(cluster_id=0, size=1, name="cat")],
        images={0: ReportImage(image_id="a"), 1: ReportImage(image_id="b", cluster_id=0)},
        map_points=MapPoints(row_ids=np.array([0, 1]), xy=np.array([[0.1, 0.2], [0.3, 0.4]], dtype=np.float32)),
    )
    assert '"map":{"images":[0,1]' in render_report(data)


def test_the_choice_of_k_is_shown_where_k_was_chosen(make_report_data):
    curve = Curve(title="Overall", series=[Series(name="overall", x=[2, 4, 8], y=[0, 1, 0])], log_x=True, marks=[4])
    suggestion = SuggestedK(num_clusters=4, overall=0.9, reason=EVIL)
    with_choice = render_report(make_report_data(k_evidence=KEvidence(suggestions=[suggestion], curves=[curve])))
    page = Page(with_choice)
    assert page.open == []
    assert EVIL in "".join(page.text)
    assert [tags["id"] for tag, tags in page.tags if tag == "section"].count("k") == 1
    assert [tags for tag, tags in page.tags if tag == "line" and tags.get("class") == "mark"]
    assert 'id="k"' not in render_report(make_report_data())
