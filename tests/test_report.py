"""The report of a run in a real browser: whole by itself, without errors, with pictures and words for them."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import downscale
from downscale.runs import pipeline
from downscale.runs.demo import demo_recipe
from downscale.runs.recipe import load_recipe, parse_recipe

PROBE = """<script>
addEventListener("load", () => {
  const images = [...document.images].map(i => [i.naturalWidth, i.naturalHeight, i.alt, i.clientWidth]);
  const fetched = performance.getEntriesByType("resource").map(e => e.name);
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const probe = document.createElement("pre");
  probe.id = "probe";
  probe.textContent = JSON.stringify({images, fetched, wide});
  document.body.append(probe);
});
</script>"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("report")
    return folder, pipeline.run(demo_recipe(folder), command="downscale demo --out 'a folder'")


class Outline(HTMLParser):
    """Headings, pictures and what they lack."""

    def __init__(self) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.addresses: list[str] = []
        self.alts: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "img":
            self.alts.append(found.get("alt"))
        self.addresses += [value for key, value in attrs if key in ("src", "href", "srcset", "action") and value]


@pytest.mark.slow
def test_the_page_can_be_read_without_eyes_and_without_a_network(made: tuple[Path, Any]) -> None:
    page = (made[0] / "report.html").read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(page)
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(later - sooner <= 1 for sooner, later in zip(outline.headings, outline.headings[1:], strict=False))
    assert len(outline.alts) == 4
    assert all(alt and len(alt) > 40 for alt in outline.alts)
    assert all(address.startswith(("data:", "#")) for address in outline.addresses)
    assert "url(" not in page
    assert "<script" not in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


@pytest.mark.slow
def test_the_recipe_on_the_page_makes_the_same_again(made: tuple[Path, Any], tmp_path: Path) -> None:
    page = (made[0] / "report.html").read_text(encoding="utf-8")
    assert html.escape("downscale demo --out 'a folder'", quote=False) in html.unescape(page)
    blocks = re.findall(r"<pre><code>(.*?)</code></pre>", page, re.DOTALL)
    (tmp_path / "recipe.yml").write_text(html.unescape(blocks[-1]), encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.yml") == demo_recipe(made[0])


@pytest.mark.slow
def test_a_browser_shows_it_without_errors_or_requests(made: tuple[Path, Any], tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here (apt-get install chromium)")
    page = (made[0] / "report.html").read_text(encoding="utf-8")
    probed = tmp_path / "probed.html"
    probed.write_text(page.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    for width in (1200, 480):
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--enable-logging=stderr", f"--user-data-dir={tmp_path / str(width)}", f"--window-size={width},1000",
            "--virtual-time-budget=5000", "--dump-dom", probed.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        assert "CONSOLE" not in done.stderr, done.stderr
        said = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
        assert said, done.stderr[-2000:]
        found = json.loads(html.unescape(said[1]))
        assert [image for image in found["images"] if min(image[:2]) < 300 or image[3] < 200] == []
        assert len(found["images"]) == 4
        assert [name for name in found["fetched"] if not name.startswith("data:")] == []
        assert found["wide"] <= 0, "the page is wider than its window"


def test_words_of_others_cannot_become_markup(tmp_path: Path) -> None:
    coarse = downscale.sample.open("north_america").isel(time=[0], lat=slice(0, 8), lon=slice(0, 8))
    coarse.tas.attrs["long_name"] = "<b>bold</b>"
    downscale.to_netcdf(coarse, tmp_path / "in.nc")
    recipe = parse_recipe({
        "title": "<script>alert(1)</script>",
        "input": {"path": str(tmp_path / "in.nc")},
        "downscale": {"factor": 2},
        "output": {"path": str(tmp_path / "out.nc"), "report": str(tmp_path / "r.html")},
    })  # fmt: skip
    pipeline.run(recipe)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>bold" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_targets_that_do_not_nest_have_a_report_without_a_map_of_errors(tmp_path: Path) -> None:
    coarse = downscale.sample.open("north_america").isel(time=[0], lat=slice(0, 12), lon=slice(0, 12))
    downscale.to_netcdf(coarse, tmp_path / "in.nc")
    recipe = parse_recipe({
        "input": {"path": str(tmp_path / "in.nc")},
        "downscale": {"target_grid": "0.8x0.8"},
        "output": {"path": str(tmp_path / "out.nc"), "report": str(tmp_path / "r.html")},
    })  # fmt: skip
    pipeline.run(recipe)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Worst cells" not in page
    assert page.count("<img") == 3
