"""Every page, of text that would be markup, opened in a real browser, which would run it.

The pages' own policy forbids scripts; here they are opened without it, so that escaping alone has to do.
"""

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
from markupsafe import Markup

from tasks.download.outcomes import RowOutcome, write_outcomes
from tasks.download.page import make_download_report
from tasks.features.inspection.config import InspectConfig
from tasks.features.inspection.inspection import inspect_features
from tasks.features.inspection.page import inspection_page
from tasks.pages.page import render
from tasks.records import Outcome, Receipt, Stage
from tasks.reports.sweeps import Sweep, VariantRow, publish_sweep
from tasks.storage.paths import image_receipt_path, manifest_receipt_path, outcomes_path
from tasks.storage.root import Root, now
from tests.regions import FEATURES, publish_captions, publish_features, publish_pictures, regions_of
from tests.scored import IMAGES, publish_data, publish_evaluation, publish_page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
EVIL = (
    "\u202e\"'><script>top.document.title = 'broken'</script><img src=x onerror=\"top.document.title = 'broken'\">"
    "<svg onload=\"top.document.title = 'broken'\"></svg><a href=\"javascript:top.document.title = 'broken'\">a</a>"
)
NAMES = (EVIL, "dog", f"tree{EVIL}", "never")
PAGES = ("download", "report", "inspect", "sweep")

LOOK = """<!doctype html><title>whole</title><body><script>
const found = {};
async function look(name) {
  document.title = "whole";
  const frame = document.createElement("iframe");
  const loaded = new Promise(resolve => frame.onload = resolve);
  frame.src = name + ".html";
  document.body.append(frame);
  await loaded;
  await new Promise(resolve => setTimeout(resolve, 200));
  const all = [...frame.contentDocument.querySelectorAll("*")];
  found[name] = {
    scripts: frame.contentDocument.scripts.length,
    handlers: all.filter(one => [...one.attributes].some(at => at.name.startsWith("on"))).length,
    links: all.flatMap(one => [...one.attributes]).filter(at => ["href", "src", "xlink:href", "action"]
      .includes(at.name) && !at.value.startsWith("#") && !at.value.startsWith("data:image/jpeg;base64,")).length,
    shown: frame.contentDocument.body.textContent.includes("<script>top.document.title"),
    title: document.title,
  };
}
(async () => {
  for (const name of NAMES) await look(name);
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify(found);
  document.body.append(result);
})();
</script></body>"""


def receipt(stage: Stage, **counts: int) -> Receipt:
    return Receipt(
        stage=stage,
        dataset="web",
        split="train",
        shard=0,
        fingerprint="f",
        counts=counts,
        files={},
        seconds=0.1,
        created_at=now(),
    )


def download_page(root: Root) -> str:
    """Hostile URLs, hosts, details and status lines."""
    url = f"http://evil.example/{EVIL}"
    rows = [
        RowOutcome(f"{row:09d}", url, f"{row:09d}", outcome, EVIL, attempts=1, http_status=status, seconds=2.0)
        for row, (outcome, status) in enumerate([(Outcome.NOT_FOUND, 404), (Outcome.TIMEOUT, None)] * 6)
    ]
    root.publish_model(manifest_receipt_path("web", "train"), receipt(Stage.MANIFEST, rows=len(rows)))
    root.publish(outcomes_path("web", "train", 0), lambda stream: write_outcomes(stream, rows))
    root.publish_model(image_receipt_path("web", "train", 0), receipt(Stage.DOWNLOAD, ok=0))
    make_download_report(root, [("web", "train")], options=f"--rows {EVIL}")
    return root.read_bytes("download.html").decode()


def report_page(root: Root) -> str:
    """Hostile captions and labels."""
    publish_data(root, [(n, f"{n} {EVIL}") for n in [*range(IMAGES), *range(IMAGES)]], NAMES)
    scores = np.random.default_rng(0).normal(size=(IMAGES, 2 * IMAGES))
    row, tables = publish_evaluation(root, scores, [*range(IMAGES), *range(IMAGES)], setting=EVIL)
    return Path(publish_page(root, row, tables)).read_text()


def inspect_page(root: Root) -> str:
    """Hostile labels, captions, reasons of failures and details of the extractor."""
    keys = [f"{number:09d}" for number in range(10)]
    details: dict[str, object] = {"config": {"backend": EVIL, "model": EVIL}, "detector": EVIL}
    publish_features(
        root, 0, [regions_of(key) for key in keys[:8]], [(key, EVIL) for key in keys[8:]], labels=NAMES, details=details
    )
    publish_pictures(root, 0, keys)
    publish_captions(root, [(key, EVIL) for key in keys])
    found, pictures = inspect_features(root, FEATURES, InspectConfig())
    return inspection_page(found, pictures, f"Made from {EVIL}")


def sweep_page(root: Root) -> str:
    """Hostile names and reasons."""
    failed = VariantRow(name=EVIL, value=EVIL, setting=EVIL, runs=(EVIL,), recalls=(), error=EVIL)
    made = Sweep(
        ablation="layers",
        name="layers-tiny",
        dataset=EVIL,
        split=EVIL,
        variants=(failed,),
        page_path=EVIL,
        created_at="2025-01-04T12:30:59+00:00",
    )
    publish_sweep(root, made, {"note": EVIL})
    return root.read_bytes("sweeps/layers-tiny.html").decode()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    makers = {"download": download_page, "report": report_page, "inspect": inspect_page, "sweep": sweep_page}
    return {name: makers[name](Root(str(tmp_path_factory.mktemp(name)))) for name in PAGES}


@pytest.fixture(scope="module")
def seen(pages: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the browser found in each page; `control` is one that forgets to escape."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    folder = tmp_path_factory.mktemp("browser")
    control = render(
        "reports/report.html", title="Control", note="", sections=[("part", "Evil", Markup(f"<p>{EVIL}</p>"))]
    )
    for name, page in {**pages, "control": control}.items():
        without, policies = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
        assert policies == 1
        (folder / f"{name}.html").write_text(without)
    (folder / "look.html").write_text(LOOK.replace("NAMES", json.dumps([*PAGES, "control"])))
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--allow-file-access-from-files",
        "--virtual-time-budget=20000",
        f"--user-data-dir={folder / 'profile'}",
        "--dump-dom",
        (folder / "look.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, f"the browser found nothing: {done.stderr[-2000:]}"
    return dict(json.loads(html.unescape(found[1])))


@pytest.mark.parametrize("name", PAGES)
def test_foreign_text_stays_text(seen: dict[str, dict[str, Any]], name: str) -> None:
    assert seen[name] == {"scripts": 0, "handlers": 0, "links": 0, "shown": True, "title": "whole"}


def test_a_page_that_forgets_to_escape_would_have_been_seen(seen: dict[str, dict[str, Any]]) -> None:
    found = seen["control"]
    assert found["scripts"] == 1 and found["handlers"] == 2 and found["links"] == 2 and found["title"] == "broken"


@pytest.mark.parametrize("name", PAGES)
def test_every_page_forbids_what_it_does_not_need(pages: dict[str, str], name: str) -> None:
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', pages[name])
    allowed = dict(rule.split(maxsplit=1) for rule in policy.split(";"))
    assert allowed == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
