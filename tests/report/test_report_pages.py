"""The three pages as documents: escaped, self-contained, readable without sight, and adding up."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from medmm.errors import OutputError
from medmm.evaluation.subgroups import Subgroup
from medmm.report.cohort import Missingness, render_cohort
from medmm.report.facts import FlowStep, Predictor, Table
from medmm.report.page import write_page
from medmm.report.patient import InputBlock, render_patient
from medmm.report.training import LearningCurve, render_training
from medmm.report.wording import MINUS

from . import cohort_pages, pages

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "$\\frac{$",
    "{{ 7 * 7 }}",
    "</style><style>body{display:none}",
    "javascript:alert(1)//' onload='",
    "\u202eright to left\u202c",
    "null\x00bell\x07",
    "lone \ud800 surrogate",
    "ألف \u0645\u0631\u064a\u0636",
)
"""Names that a table of a hospital could hold, by malice or by accident."""

DOCUMENT = {"html", "head", "meta", "title", "style", "body", "main", "header", "section", "footer", "nav"}
TEXT = {"div", "p", "h1", "h2", "h3", "span", "b", "small", "strong", "bdi", "br", "a", "details", "summary"}
LISTS = {"dl", "dt", "dd", "ul", "ol", "li", "table", "thead", "tbody", "tfoot", "tr", "th", "td"}
FIGURES = {"figure", "figcaption", "img", "svg", "g", "line", "rect", "circle", "path", "polyline", "text"}
ALLOWED = DOCUMENT | TEXT | LISTS | FIGURES | {"image", "use", "defs", "clippath"}
VOID = frozenset({"meta", "img", "br"})


class Document(HTMLParser):
    """What a page holds, and whether every element that is opened is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.titles: dict[int, str] = {}
        self.rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text.append(data)
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += data
        if self._open and self._open[-1] == "title" and "svg" in self._open:
            self.titles[len(self.elements)] = data

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for found, attributes in self.elements if found == tag]


def patient(**changes: object) -> str:
    return render_patient(pages.patient_page(**changes))


def cohort(**changes: object) -> str:
    return render_cohort(cohort_pages.cohort_page(**changes))


def training(**changes: object) -> str:
    return render_training(cohort_pages.training_page(**changes))


EVERY = pytest.mark.parametrize("draw", [patient, cohort, training])


@EVERY
def test_the_page_is_one_closed_document_that_fetches_and_runs_nothing(draw) -> None:
    html = draw()
    document = Document(html)
    assert {tag for tag, _ in document.elements} <= ALLOWED
    policy = [meta for meta in document.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert [meta["content"] for meta in policy] == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    ]
    assert document.of("html") == [{"lang": "en"}]
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", html)
    for tag, attributes in document.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("href", "src"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,"))


@EVERY
def test_every_picture_says_what_it_shows(draw) -> None:
    html = draw()
    document = Document(html)
    assert all(image["alt"] for image in document.of("img"))
    # The inner svg elements only move the origin of what they hold.
    outer = [
        place for place, (tag, found) in enumerate(document.elements) if tag == "svg" and "y" not in found
    ]
    assert outer
    for place in outer:
        assert document.elements[place][1]["role"] == "img"
        assert document.elements[place + 1][0] == "title"
        assert document.titles[place + 2].strip()


@EVERY
def test_ids_are_unique_and_every_link_leads_somewhere(draw) -> None:
    document = Document(draw())
    ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in document.elements:
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(name: str) -> None:
    waterfall = pages.field_waterfall()
    players = {key: replace(text, label=name, value=name) for key, text in waterfall.players.items()}
    group = Subgroup(name, 40, 12)
    html = (
        patient(
            question=name,
            pseudonym=name,
            warnings=(name,),
            inputs=(
                InputBlock(name="ct", label=name, absent=name, missing=(name,), not_used=((name, name),)),
            ),
            fields=(replace(waterfall, players=players, title=name),),
            images=(pages.intensity_evidence(label=name), pages.label_evidence(labels=((100, name),))),
            feedback=name,
        ),
        cohort(
            title=name,
            question=name,
            flow=(FlowStep(name, 3, ((name, 1),)),),
            table_one=Table((name, name), ((name, name),), name),
            missingness=(Missingness(name, 1, 3, name),),
            predictors=(replace(cohort_pages.PREDICTORS[0], name=name),),
            subgroups={name: (group,)},
            swarm=tuple(replace(field, label=name) for field in cohort_pages.cohort_page().swarm),
            refused=((name, 1),),
            evidence={"CLAIM 2024 7": name},
        ),
        training(
            title=name,
            settings=((name, name),),
            warnings=(name,),
            curves=(LearningCurve(name, (0.5, 0.4)),),
            predictors=(Predictor(name, 3, 1, cohort_pages.PREDICTORS[0].auroc),),
        ),
    )
    for page in html:
        page.encode("utf-8")
        document = Document(page)
        assert {tag for tag, _ in document.elements} <= ALLOWED
        for tag, attributes in document.elements:
            assert not [key for key in attributes if key.startswith("on")], tag
        printed = "".join(document.text)
        assert not set(printed) & {"\u202e", "\u202c", "\x00", "\x07", "\ud800"}
        assert re.sub("[\x00\x07\u202c\u202e\ud800]", "\ufffd", name) in printed


def test_a_patient_who_was_not_scored_gets_no_number() -> None:
    page = Document(patient(status="deferred", reason="no series that the cohort's rule accepts"))
    printed = " ".join(page.text)
    assert "DEFERRED" in printed
    assert "no series that the cohort's rule accepts" in printed
    assert "of 100" not in printed
    assert "AUROC" not in printed
    assert not page.of("svg")


def test_the_figure_of_a_patient_in_training_is_called_optimistic() -> None:
    seen, unseen = (patient(risk=pages.risk(training=way)) for way in ("in_training", "not_in_training"))
    assert "optimistic" in seen
    assert "optimistic" not in unseen


def test_a_map_that_failed_its_gate_is_not_on_the_page_even_if_handed_over() -> None:
    withheld = patient(images=(pages.intensity_evidence(gate="withheld"),))
    passed = patient(images=(pages.intensity_evidence(),))
    assert "withheld" in withheld
    assert withheld.count("data:image/png") == 3
    assert passed.count("data:image/png") == 6


def test_the_original_comes_first_and_the_map_is_closed() -> None:
    html = patient(images=(pages.intensity_evidence(),))
    first_map = html.index("with attribution")
    assert html.index("Slice 28 / 64, original") < html.rindex("<details>", 0, first_map) < first_map
    assert "<details open" not in html


def _log_odds(row: list[str]) -> float:
    found = re.search(rf"[+{MINUS}]?\d+\.\d\d", row[3])
    assert found, row
    return float(found[0].replace(MINUS, "-"))


def test_the_bars_as_printed_add_up_to_the_risk_as_printed() -> None:
    rows = Document(patient()).rows
    starts = [place for place, row in enumerate(rows) if row[0] == "Reference population, average"]
    ends = [place for place, row in enumerate(rows) if row[0] == "This patient"]
    assert len(starts) == len(ends) == 2
    for start, end in zip(starts, ends, strict=True):
        moved = sum(_log_odds(row) for row in rows[start:end])
        assert moved == pytest.approx(_log_odds(rows[end]), abs=1e-9)
        assert rows[end][1] == "47 of 100"


def test_sections_without_values_are_left_out() -> None:
    bare = cohort(
        flow=(),
        table_one=None,
        missingness=(),
        predictors=(),
        verdict=None,
        thresholds=(),
        histogram=None,
        calibration=None,
        net_benefit=None,
        subgroups={},
        patterns=(),
        swarm=(),
        shares=(),
        refused=(),
    )
    headings = re.findall(r"<h2[^>]*>([^<]+)", bare)
    assert headings == ["Reporting checklists", "Small print"]
    full = re.findall(r"<h2[^>]*>([^<]+)", cohort())
    assert len(full) == 9
    empty = training(
        flow=(),
        predictors=(),
        decided=None,
        verdict=None,
        curves=(),
        contact_sheet=b"",
        settings=(),
        warnings=(),
        chosen=None,
    )
    assert re.findall(r"<h2[^>]*>([^<]+)", empty) == ["Small print"]


def test_a_small_group_is_named_and_not_described() -> None:
    rows = Document(cohort()).rows
    island = next(row for row in rows if row[0] == "island")
    assert [cell.strip() for cell in island[1:]] == ["fewer than 11", "", "–", "–"]


def test_the_chosen_threshold_is_marked_once() -> None:
    html = cohort()
    assert html.count('<tr class="chosen">') == 1
    assert '<tr class="chosen"><th scope="row">20 ' in html
    assert 'class="chosen"' not in cohort(chosen_threshold=None)


def test_the_shares_of_the_modalities_are_of_one_whole() -> None:
    rows = Document(cohort()).rows
    shares = [
        int(re.sub(r"\D", "", row[2])) for row in rows if row[0] in ("biomarkers", "zones") and "%" in row[2]
    ]
    assert len(shares) == 2
    assert sum(shares) == 100


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    page = tmp_path / "reports" / "page.html"
    write_page("<!doctype html>first", page)
    write_page("<!doctype html>second", page)
    assert page.read_text() == "<!doctype html>second"
    assert [found.name for found in page.parent.iterdir()] == ["page.html"]
    assert page.stat().st_mode & 0o077 == 0
    with pytest.raises(OutputError, match="cannot be written"):
        write_page("x", page / "below.html")


def test_the_training_page_says_how_the_model_was_chosen() -> None:
    page = training()
    for heading in ("Who has what", "Fused against each other model", "Net benefit", "Promotion"):
        assert heading in page
    assert "fewer than 11" in page  # a pattern of few
    assert "+0.060 (-0.010 to +0.110)" in page
    assert "+0.050 (+0.010 to +0.090)" in page
    assert "candidate only: calibration_slope asks 0.8 to 1.25, found 0.70" in page
    assert not re.search(r"\bnan\b", page)
    assert "Mean of 3 cross-validations" in page
    assert "Who has what" not in training(chosen=None)
