"""The pages in a real browser: nothing is blocked, nothing fails, something is seen, and it prints."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medmm.report.cohort import render_cohort
from medmm.report.page import write_page
from medmm.report.patient import render_patient
from medmm.report.training import render_training
from tests.report import cohort_pages, pages

pytestmark = pytest.mark.service

DRAWN: dict[str, Callable[[], str]] = {
    "patient": lambda: render_patient(pages.patient_page()),
    "deferred": lambda: render_patient(pages.patient_page(status="deferred", reason="no series")),
    "cohort": lambda: render_cohort(cohort_pages.cohort_page()),
    "training": lambda: render_training(cohort_pages.training_page()),
}
COMPLAINTS = re.compile(r"CONSOLE|Refused to|Content Security Policy|Uncaught|net::ERR", re.IGNORECASE)


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no chromium here: install the package chromium to see the pages in a browser")
    return found


@pytest.fixture
def browse(chromium: str, tmp_path: Path) -> Callable[..., str]:
    """Open a page with a fresh profile and return what the browser logged."""

    def opened(page: Path, *options: str) -> str:
        done = subprocess.run(
            [
                chromium,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--hide-scrollbars",
                "--enable-logging=stderr",
                f"--user-data-dir={tmp_path / 'profile'}",
                *options,
                page.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return done.stderr

    return opened


@pytest.mark.parametrize("name", DRAWN)
def test_a_page_opens_is_seen_and_prints(name: str, browse: Callable[..., str], tmp_path: Path) -> None:
    page, picture, print_out = (tmp_path / f"page.{ending}" for ending in ("html", "png", "pdf"))
    write_page(DRAWN[name](), page)
    logged = browse(page, f"--screenshot={picture}", "--window-size=1000,1400")
    assert not COMPLAINTS.findall(logged), logged
    seen = np.asarray(Image.open(picture).convert("L"))
    assert seen.shape == (1400, 1000)
    assert len(np.unique(seen)) > 50
    logged = browse(page, f"--print-to-pdf={print_out}", "--no-pdf-header-footer")
    assert not COMPLAINTS.findall(logged), logged
    assert print_out.read_bytes().startswith(b"%PDF")
    assert print_out.stat().st_size > 10_000


def test_a_narrow_page_does_not_scroll_sideways(browse: Callable[..., str], tmp_path: Path) -> None:
    """At 500 pixels the right margin is bare background: no content runs over it."""
    for name, draw in DRAWN.items():
        page, picture = tmp_path / f"{name}.html", tmp_path / f"{name}.png"
        write_page(draw(), page)
        browse(page, f"--screenshot={picture}", "--window-size=500,3000")
        below_banner = np.asarray(Image.open(picture).convert("L"))[120:, -6:]
        assert len(np.unique(below_banner)) == 1, name


def test_what_the_policy_forbids_would_be_noticed(browse: Callable[..., str], tmp_path: Path) -> None:
    """The check above can fail: an image from elsewhere is refused, and the log says so."""
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    html = DRAWN["deferred"]().replace("</main>", '<img src="file:///other.png" alt=""></main>')
    write_page(html, page)
    assert COMPLAINTS.search(browse(page, f"--screenshot={picture}"))
