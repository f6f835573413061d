"""The report in a real browser, without a window, as wide as a desktop and as narrow as a phone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.storage.root import Root
from tests.scored import IMAGES, publish_data, publish_evaluation, publish_page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTHS = (1280, 390)
SECONDS = 60

TEXTS = (
    "a plain caption",
    '"><script>document.title = "broken"</script><img src=x onerror=alert(1)>',
    "\u202eقطة تجلس على سجادة",
    "W" * 400,
    "&lt;b&gt; 'quoted' \"twice\" `once` ${none}",
    "line\nbreak\ttab \x00 zero",
    "👩‍👩‍👧‍👦 ‏שלום",
)

# A browser's own window is never narrower than about 500 pixels, so the page is opened in frames of the widths asked.
MEASURE = """<!doctype html><body style="margin: 0"><script>
const found = {};
async function measure(width) {
  const frame = document.createElement("iframe");
  frame.style = `border: 0; width: ${width}px; height: 900px`;
  const loaded = new Promise(resolve => frame.onload = resolve);
  frame.src = PAGE;
  document.body.append(frame);
  await loaded;
  const page = frame.contentDocument, root = page.documentElement;
  const pictures = [...page.querySelectorAll("image")].map(image => image.getAttribute("href"));
  const decoded = await Promise.all(pictures.map(href => new Promise(resolve => {
    const image = new Image();
    image.onload = () => resolve(image.naturalWidth);
    image.onerror = () => resolve(0);
    image.src = href;
  })));
  found[width] = {
    title: page.title,
    width: root.clientWidth,
    needs: root.scrollWidth,
    headings: [...page.querySelectorAll("section h2")].map(heading => heading.textContent),
    pictures: decoded,
    drawn: [...page.querySelectorAll("svg")].every(svg => svg.getBoundingClientRect().height > 10),
    scripts: page.scripts.length,
    fetched: frame.contentWindow.performance.getEntriesByType("resource")
      .map(entry => entry.name).filter(name => !name.startsWith("data:")),
    styled: frame.contentWindow.getComputedStyle(page.querySelector("figure.right")).borderTopWidth,
    outside: [...page.querySelectorAll("main *")].filter(
      element => !element.closest(".wide, pre, svg") && element.getBoundingClientRect().right > width + 1
    ).map(element => element.outerHTML.slice(0, 120)),
  };
}
(async () => {
  for (const width of WIDTHS) await measure(width);
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify(found);
  document.body.append(result);
})();
</script></body>"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What the browser measured, by width, and what it had to say."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    folder = tmp_path_factory.mktemp("browser")
    root = Root(str(folder / "root"))
    publish_data(root, [(n, TEXTS[n]) for n in [*range(IMAGES), *range(IMAGES)]], [TEXTS[1], TEXTS[3], "tree", "never"])
    scores = np.random.default_rng(0).normal(size=(IMAGES, 2 * IMAGES))
    row, tables = publish_evaluation(root, scores, [*range(IMAGES), *range(IMAGES)])
    page = Path(publish_page(root, row, tables))
    outer = folder / "outer.html"
    outer.write_text(MEASURE.replace("PAGE", json.dumps(page.as_uri())).replace("WIDTHS", json.dumps(WIDTHS)))
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--allow-file-access-from-files",
        "--enable-logging=stderr",
        "--window-size=1400,1000",
        "--virtual-time-budget=20000",
        f"--user-data-dir={folder / 'profile'}",
        "--dump-dom",
        outer.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    measured = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert measured, f"the browser measured nothing: {done.stderr[-2000:]}"
    return json.loads(html.unescape(measured[1])), done.stderr


@pytest.mark.parametrize("width", WIDTHS)
def test_page_fits_its_window(seen: tuple[dict[str, Any], str], width: int) -> None:
    found = seen[0][str(width)]
    assert width - 20 <= found["width"] <= width  # a scroll bar may take some
    assert found["needs"] <= found["width"] and found["outside"] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_everything_is_there_and_drawn(seen: tuple[dict[str, Any], str], width: int) -> None:
    found = seen[0][str(width)]
    assert found["title"] == "pretrain+finetune on photos/train"
    assert found["headings"] == [
        "Retrieval",
        "Captions and the images they find",
        "Images and the captions they find",
        "Recall over time",
        "Training",
        "Regions",
        "Rows lost on the way",
        "Provenance",
    ]
    assert len(found["pictures"]) > 30 and set(found["pictures"]) == {40}  # pixels, as they were stored
    assert found["drawn"] and found["styled"] == "2px"


def test_nothing_runs_is_fetched_or_complains(seen: tuple[dict[str, Any], str]) -> None:
    measured, said = seen
    assert all(found["scripts"] == 0 and found["fetched"] == [] for found in measured.values())
    assert [line for line in said.splitlines() if "CONSOLE" in line] == []
