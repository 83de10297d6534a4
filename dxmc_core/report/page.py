"""What every HTML page of dxmc shares: templates, the style sheet with its palette, and what keeps a page safe."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from dxmc_core.report import wording
from dxmc_core.report.palette import COLORS
from dxmc_core.runtime.durations import duration

#: Every page with a header has it.
PAGE_MARK = b'<p class="brand"><strong>dxmc</strong>'
#: The body of a report that has pages of members beside it.
_WITH_MEMBERS = b'<body class="with-members">'
#: A page connects to nowhere; that of `dxmc review` to itself.
_NO_CONNECTION, _OWN_CONNECTION = b"default-src 'none'; img-src", b"default-src 'none'; connect-src 'self'; img-src"


@cache
def environment() -> Environment:
    """The templates of `dxmc_core/report/templates`, which escape everything that they are given."""
    made = Environment(
        loader=PackageLoader("dxmc_core.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "thousands": wording.thousands,
        "percent": wording.percent,
        "decimal": wording.decimal,
        "duration": duration,
        "counted": wording.counted,
        "date": wording.date,
    }
    made.tests["known"] = wording.is_known
    made.globals["headline"] = wording.headline
    return made


@cache
def style_sheet(names: Sequence[str]) -> Markup:
    """Style sheets joined, led by the palette: a custom property and a class for each colour slot."""
    slots = [f":root{{--c{slot}:{color}}}.c{slot}{{--hue:{color}}}" for slot, color in enumerate(COLORS)]
    return Markup("\n").join([*map(Markup, slots), joined_templates(names)])


def joined_templates(names: Sequence[str]) -> Markup:
    """The sources of style sheets or scripts, one after the other, which are not escaped: they are dxmc's own."""
    loader = environment().loader
    assert loader is not None
    return Markup("\n").join(Markup(loader.get_source(environment(), name)[0]) for name in names)  # noqa: S704


def csp_hash(text: str) -> str:
    """The source expression that lets exactly this inline element through (Content Security Policy Level 3)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def without_members(page: bytes) -> bytes:
    """A report that goes where the pages of members do not: it no longer shows the links to them."""
    return page.replace(_WITH_MEMBERS, b"<body>", 1)


def for_review(page: bytes, *, author: str) -> bytes:
    """A report as `dxmc review` serves it: its script may post to where it came from, and knows that it is to do so."""
    body = f'<body data-review="yes" data-author="{escape(author)}"'.encode()
    return page.replace(_NO_CONNECTION, _OWN_CONNECTION, 1).replace(b"<body", body, 1)


def writable_text(html: str) -> str:
    """The page for writing as UTF-8: names of files that are not valid UTF-8 reach us as lone surrogates."""
    return html.encode("utf-8", errors="backslashreplace").decode("utf-8")
