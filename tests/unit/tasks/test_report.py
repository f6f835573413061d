from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from tasks.errors import UserError
from tasks.records import HistoryRow
from tasks.report import GalleryEntry, GalleryImage, SettingRow, make_report, table_text
from tasks.storage import Root

EVIL = '<script>alert("x")</script>'


def setting_row(setting: str, image_to_text: float, text_to_image: float, **changes: int | None) -> SettingRow:
    fields: dict[str, int | None] = {"images": 100, "captions": 500, "seed": 0, **changes}
    return SettingRow.model_validate(
        {"setting": setting, "image_to_text": {1: image_to_text}, "text_to_image": {1: text_to_image}, **fields}
    )


TABLE = [
    setting_row("chance", 0.01, 0.01, seed=None),
    setting_row("zero-shot", 0.16, 0.45),
    setting_row("pretrain+finetune", 0.5, 0.429),
]


def history_row(setting: str, recall: float, made: str = "2025-03-04T05:06:07+00:00") -> HistoryRow:
    return HistoryRow(
        setting=setting,
        run="run-1",
        dataset="retrieval",
        split="test",
        seed=0,
        metrics={"image_to_text_recall": {"1": recall}, "text_to_image_recall": {"1": recall / 2}},
        checkpoint_fingerprint="a",
        data_fingerprint="b",
        code_version="0.1.0",
        created_at=made,
    )


def jpeg(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(stream, "JPEG")
    return stream.getvalue()


class Page(HTMLParser):
    """Checks that tags nest, and remembers what a browser would fetch, run or show."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"href", "src", "xlink:href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(str(tmp_path))


def html_of(root: Root) -> str:
    return root.read_bytes("report.html").decode()


def write_metrics(root: Root, run: str, *rows: dict[str, float]) -> None:
    root.publish_bytes(f"runs/{run}/metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def test_full_page_nests_and_fetches_nothing(root: Root) -> None:
    write_metrics(root, "pretrain-1", {"step": 1, "loss": 2.0, "vlm_accuracy": 0.5}, {"step": 2, "loss": 1.0})
    root.append_line("history.jsonl", history_row("zero-shot", 0.2).model_dump_json())
    image = GalleryImage(jpeg(64, 48), 1.5, True, [(1.0, 2.0, 11.0, 22.0)], ["red circle"])
    where = make_report(
        root, "Demo", TABLE, {"web/train": {"ok": 8, "not_found": 2}}, {"seed": 0}, [GalleryEntry("a ring", [image])]
    )
    assert where == root.path("report.html")
    page = Page(html_of(root))
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "@import" not in html_of(root) and "url(" not in html_of(root) and "http://" not in html_of(root)
    headings = ["Retrieval", "Retrieved images", "Rows lost on the way", "Training", "History", "Parameters"]
    assert [text for text in page.text if text in headings] == headings


def test_sections_without_data_are_left_out(root: Root) -> None:
    make_report(root, "Demo", [], {}, {})
    text = " ".join(Page(html_of(root)).text)
    assert "No evaluation yet" in text
    assert "Training" not in text and "History" not in text and "Retrieved images" not in text


def test_text_from_data_is_escaped_everywhere(root: Root) -> None:
    write_metrics(root, "run-1", {"step": 1, EVIL: 2.0})
    row = history_row(EVIL, 0.2).model_copy(update={"run": EVIL, "code_version": EVIL, "created_at": EVIL})
    root.append_line("history.jsonl", row.model_dump_json())
    image = GalleryImage(jpeg(64, 48), 1.5, False, [(1.0, 2.0, 11.0, 22.0)], [EVIL])
    outcomes = {EVIL: {"ok": 1, EVIL: 1}}
    make_report(root, EVIL, [setting_row(EVIL, 0.1, 0.1)], outcomes, {EVIL: EVIL}, [GalleryEntry(EVIL, [image])])
    assert "<script" not in html_of(root)
    assert "script" not in Page(html_of(root)).tags
    assert html_of(root).count("&lt;script&gt;") > 10


def test_best_value_of_each_column_is_bold(root: Root) -> None:
    make_report(root, "Demo", TABLE, {}, {})
    cells = re.findall(r"<td>(.*?)</td>", html_of(root))
    assert cells == ["1.0", "1.0", "16.0", "<b>45.0</b>", "<b>50.0</b>", "42.9"]


def test_protocol_names_the_size_and_the_tie_rule() -> None:
    assert table_text(TABLE).splitlines()[-1] == (
        "100 images x 500 captions. Recall@k in percent; every query ranks all candidates, and ties count against."
    )


def test_rows_of_different_sizes_say_that_they_cannot_be_compared() -> None:
    text = table_text([setting_row("chance", 0.01, 0.01), setting_row("zero-shot", 0.2, 0.2, images=50)])
    assert "cannot be compared: chance 100 images x 500 captions; zero-shot 50 images x 500 captions" in text


def test_terminal_table_is_aligned() -> None:
    row = SettingRow(
        setting="zero-shot", image_to_text={1: 0.5, 10: 1.0}, text_to_image={1: 0.125}, images=2, captions=4, seed=0
    )
    assert table_text([row]).splitlines()[:3] == [
        "            image-to-text   text-to-image",
        "setting        R@1   R@10      R@1   R@10",
        "zero-shot     50.0  100.0     12.5      –",
    ]


def test_seed_is_shown_where_a_setting_comes_twice() -> None:
    text = table_text([setting_row("zero-shot", 0.1, 0.1), setting_row("zero-shot", 0.2, 0.2, seed=1), TABLE[0]])
    assert "zero-shot (seed 0)" in text and "zero-shot (seed 1)" in text and "chance (" not in text


def test_no_evaluation_is_said() -> None:
    assert table_text([]) == "no evaluation yet"


def test_lost_rows_are_counted_per_split(root: Root) -> None:
    make_report(root, "Demo", [], {"web/train": {"ok": 90, "not_found": 7, "timeout": 3}, "test/test": {"ok": 5}}, {})
    html = html_of(root)
    assert "web/train: 10 of 100 rows lost (10.0%)" in html
    assert "7 (7.00%)" in html and "3 (3.00%)" in html
    assert '<th scope="row">rows</th><td>100</td><td>5</td>' in html
    assert '<th scope="row">not_found</th><td>7</td><td>0</td>' in html
    assert "test/test: " not in html


def test_nothing_lost_is_said(root: Root) -> None:
    make_report(root, "Demo", [], {"web/train": {"ok": 90}}, {})
    assert "No row was lost." in html_of(root)


def test_losses_and_fractions_are_drawn_apart_and_housekeeping_is_not(root: Root) -> None:
    write_metrics(
        root,
        "finetune-1",
        {"step": 1, "loss": 2.0, "accuracy": 0.1, "learning_rate": 0.001, "steps_per_second": 3, "skipped": 0},
        {"step": 2, "image_to_text_r1": 0.3, "image_to_text_r10": 0.9, "recall_sum": 2.5},
        {"step": 3, "loss": 1.0, "accuracy": 0.625},
    )
    make_report(root, "Demo", [], {}, {})
    html = html_of(root)
    legends = re.findall(r"</span>(\w+) <b>([^<]+)</b>", html)
    assert legends == [("loss", "1"), ("accuracy", "62%"), ("image_to_text_r1", "30%")]


def test_line_that_is_still_being_written_is_left_out(root: Root) -> None:
    content = b'{"step": 1, "loss": 2.0}\n{"step": 2, "lo'
    root.publish_bytes("runs/pretrain-1/metrics.jsonl", content)
    make_report(root, "Demo", [], {}, {})
    assert "loss <b>2</b>" in html_of(root)


def test_broken_metrics_line_is_named(root: Root) -> None:
    root.publish_bytes("runs/pretrain-1/metrics.jsonl", b'{"step": 1, "loss": 2.0}\n{"loss": 2.0}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 is not a row of metrics"):
        make_report(root, "Demo", [], {}, {})


def test_history_shows_newest_first_and_a_line_per_setting(root: Root) -> None:
    for day, (setting, recall) in enumerate([("zero-shot", 0.2), ("task-specific", 0.4), ("zero-shot", 0.25)], 1):
        row = history_row(setting, recall, f"2025-03-0{day}T05:06:07+00:00")
        root.append_line("history.jsonl", row.model_dump_json())
    make_report(root, "Demo", [], {}, {})
    html = html_of(root)
    assert re.findall(r"2025-03-\d\d \d\d:\d\d", html) == [f"2025-03-0{day} 05:06" for day in (3, 2, 1)]
    assert html.count("<polyline") == 2  # zero-shot in both directions; one evaluation alone is a dot
    assert "zero-shot, retrieval/test <b>25%</b>" in html


def test_long_history_is_cut_and_says_so(root: Root) -> None:
    for _ in range(53):
        root.append_line("history.jsonl", history_row("zero-shot", 0.2).model_dump_json())
    make_report(root, "Demo", [], {}, {})
    assert "The newest 50 of 53 evaluations." in html_of(root)
    assert html_of(root).count("2025-03-04") == 50


def test_metrics_of_another_kind_leave_a_gap_in_the_history(root: Root) -> None:
    row = history_row("zero-shot", 0.2).model_copy(update={"metrics": {"perplexity": 3.0}})
    root.append_line("history.jsonl", row.model_dump_json())
    make_report(root, "Demo", [], {}, {})
    assert html_of(root).count("<td>–</td>") == 2


def test_gallery_boxes_keep_the_pixels_of_the_stored_image(root: Root) -> None:
    large = GalleryImage(jpeg(1024, 512), 0.75, True, [(100.0, 50.0, 300.0, 250.0)], ["red circle"])
    make_report(root, "Demo", [], {}, {}, [GalleryEntry("a red circle", [large])])
    html = html_of(root)
    assert 'viewBox="0 0 1024 512"' in html
    assert '<rect class="region" x="100.0" y="50.0" width="200.0" height="200.0">' in html
    assert "✓ its image" in html and "<b>0.750</b>" in html
    (link,) = Page(html).links
    assert len(link) < 0.75 * len(jpeg(1024, 512)) * 4 / 3  # a thumbnail, not the whole picture


def test_gallery_wants_a_label_for_every_box(root: Root) -> None:
    image = GalleryImage(jpeg(64, 48), 1.5, True, [(1.0, 2.0, 3.0, 4.0)], [])
    with pytest.raises(ValueError, match="shorter"):
        make_report(root, "Demo", [], {}, {}, [GalleryEntry("a ring", [image])])


def test_parameters_are_readable_json(root: Root) -> None:
    params = {"encoder": {"hidden": 128}, "title": "ümlaut & co"}
    make_report(root, "Demo", [], {}, params)
    page = Page(html_of(root))
    assert any(text.startswith("{") and json.loads(text) == params for text in page.text)
