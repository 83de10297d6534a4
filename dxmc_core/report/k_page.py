"""How the number of clusters was chosen: a section of the report, and a page of its own for `dxmc suggest-k`."""

from dxmc_core.report import charts
from dxmc_core.report.data import KEvidence
from dxmc_core.report.page import csp_hash, environment, style_sheet, writable_text

_STYLES = ("page.css", "cards.css")


def k_section(evidence: KEvidence | None) -> dict[str, object]:
    """What the section's template is filled with; nothing to show without evidence."""
    if evidence is None:
        return {"k_suggestions": [], "k_charts": []}
    return {"k_suggestions": evidence.suggestions, "k_charts": charts.lay_out_all(evidence.curves)}


def render_k_evidence(evidence: KEvidence, *, title: str) -> str:
    """One self-contained HTML document, for writing as UTF-8."""
    style = style_sheet(_STYLES)
    html = (
        environment()
        .get_template("k_evidence.html")
        .render(title=title, **k_section(evidence), chart_box=charts, style=style, style_hash=csp_hash(style))
    )
    return writable_text(html)
