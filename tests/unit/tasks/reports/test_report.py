from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tasks.evaluation.evaluate import PositivesTable
from tasks.evaluation.history import read_history
from tasks.reports.report import Scored, write_report
from tasks.reports.retrieval.sections import experiment_sections
from tasks.storage.root import Root
from tests.page import Page
from tests.regions import EXTRACTOR
from tests.scored import IMAGES, publish_data, publish_evaluation, publish_page

EVIL = '"><script>alert("x")</script>'
LONG = "x" * 400
ARABIC = "\u202eقطة"
HEADINGS = [
    "Retrieval",
    "Captions and the images they find",
    "Images and the captions they find",
    "Recall over time",
    "Training",
    "Regions",
    "Rows lost on the way",
    "Provenance",
]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(str(tmp_path))


def evaluation_page(root: Root, text: str = "a caption") -> tuple[str, str]:
    """The page of an evaluation of seven images with two captions each, and where it is."""
    publish_data(root, [(n, f"{text} {n}") for n in [*range(IMAGES), *range(IMAGES)]], [text, "dog", "tree", "never"])
    scores = np.random.default_rng(0).normal(size=(IMAGES, 2 * IMAGES))
    row, tables = publish_evaluation(root, scores, [*range(IMAGES), *range(IMAGES)])
    where = publish_page(root, row, tables)
    return where, Path(where).read_text()


def test_page_of_an_evaluation_shows_what_other_ground_truths_measured(root: Root) -> None:
    publish_data(root, [(n, f"dog {n}") for n in [*range(IMAGES), *range(IMAGES)]])
    scores = np.random.default_rng(0).normal(size=(IMAGES, 2 * IMAGES))
    row, tables = publish_evaluation(root, scores, [*range(IMAGES), *range(IMAGES)])
    shown = tables[0].row.model_copy(update={"positives": "eccv <5 queries>", "image_to_text_map_at_r": 0.123})
    others = [PositivesTable(row=shown, path="x", unscored="eccv: not scored: <7>")]
    page = Page(Path(publish_page(root, row, tables, others)).read_text())
    assert {"mAP@R", "12.3", "eccv: not scored: <7>"} <= set(page.text)
    assert any(text.endswith("ground truth: eccv <5 queries>") for text in page.text)


def test_page_of_an_evaluation_has_every_section_and_fetches_nothing(root: Root) -> None:
    where, html = evaluation_page(root)
    assert where == root.path(f"scores/{Path(where).parent.name}/report.html")
    page = Page(html)
    assert [text for text in page.text if text in HEADINGS] == HEADINGS * 2  # once among the links
    fetched = [link for link in page.links if not link.startswith("#")]
    assert fetched and all(link.startswith("data:image/jpeg;base64,") for link in fetched)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "@import" not in html and "url(" not in html and "http://" not in html
    assert "pretrain+finetune on photos/train" in page.text


def test_links_lead_to_sections(root: Root) -> None:
    _, html = evaluation_page(root)
    targets = [link.removeprefix("#") for link in Page(html).links if link.startswith("#")]
    assert len(targets) == len(HEADINGS) and all(f'<section id="{target}">' in html for target in targets)


def test_page_holds_the_numbers_of_every_protocol_and_the_download(root: Root) -> None:
    _, html = evaluation_page(root)
    assert "7 images x 14 captions" in html and "Mean of 2 folds" in html
    assert "photos/train: 4 of 18 rows lost" in html
    assert "hinge <b>0.333</b>" in html
    assert "the first evaluation of pretrain+finetune on photos/train" in html


@pytest.mark.parametrize("text", [EVIL, LONG, ARABIC])
def test_text_of_the_web_stays_text(root: Root, text: str) -> None:
    _, html = evaluation_page(root, text)
    assert "script" not in Page(html).tags


def test_page_of_an_experiment_shows_the_last_evaluation_and_the_parameters(root: Root) -> None:
    evaluation_page(root)
    (row,) = read_history(root)
    params = {"encoder": {"hidden": 128}, "title": "ümlaut & co"}
    scored = Scored(row, EXTRACTOR)
    own = experiment_sections(root, [[]], scored)
    where = write_report(root, "Demo", own, {"web/train": {"ok": 1}}, params, [scored])
    assert where == root.path("report.html")
    page = Page(Path(where).read_text())
    assert any(text.startswith("{") and json.loads(text) == params for text in page.text)
    assert any(text.startswith("Setting pretrain+finetune. ") for text in page.text)
    assert "No row was lost." in page.text and "No evaluation yet." in page.text


def test_sections_without_content_are_left_out(root: Root) -> None:
    evaluation_page(root)
    (row,) = read_history(root)
    root.remove(f"runs/{row.run}/metrics.jsonl")
    scored = Scored(row, EXTRACTOR)
    own = experiment_sections(root, [[]], scored)
    html = Path(write_report(root, "Demo", own, {}, {}, [scored])).read_text()
    assert "<h2>Training</h2>" not in html and "<h2>Rows lost on the way</h2>" not in html
