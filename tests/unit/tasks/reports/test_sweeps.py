"""The table of a sweep: by variant and protocol, with what failed and why, beside what the paper printed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

from tasks.evaluation.retrieval.setting_row import SettingRow
from tasks.reports.sweeps import Sweep, VariantRow, VariantsFailedError, publish_sweep, sweep_text
from tasks.storage.root import Root


def recalls(first: float, protocol: str = "all") -> SettingRow:
    return SettingRow(
        setting="pretrain+finetune",
        image_to_text={1: first, 5: 0.75, 10: 1.0},
        text_to_image={1: first / 2, 5: 0.5, 10: 0.875},
        images=4,
        captions=20,
        seed=3,
        protocol=protocol,
        folds=2 if protocol.startswith("folds") else 1,
    )


def variant(value: int | str, *rows: SettingRow, error: str | None = None) -> VariantRow:
    name = f"{value} layers" if isinstance(value, int) else value
    return VariantRow(name=name, value=value, setting="pretrain+finetune", runs=(), recalls=rows, error=error)


def sweep(*variants: VariantRow, ablation: str = "layers", dataset: str = "tiny") -> Sweep:
    return Sweep(
        ablation=ablation,
        name=f"{ablation}-{dataset}",
        dataset=dataset,
        split="test",
        variants=variants,
        page_path="root/sweeps/any.html",
        created_at="2025-01-04T12:30:59+00:00",
    )


def table_lines(text: str, name: str) -> list[list[str]]:
    """Numbers of every line that begins with this name."""
    return [line.removeprefix(name).split() for line in text.splitlines() if line.startswith(name)]


def test_text_has_a_line_for_each_variant_and_a_table_for_each_protocol() -> None:
    text = sweep_text(
        sweep(
            variant(7, recalls(0.25), recalls(0.5, "folds:2")),
            variant(8, recalls(0.5), recalls(0.75, "folds:2")),
        )
    )
    assert [line[:6] for line in table_lines(text, "7 layers")] == [
        ["25.0", "75.0", "100.0", "12.5", "50.0", "87.5"],
        ["50.0", "75.0", "100.0", "25.0", "50.0", "87.5"],
    ]
    assert [line[0] for line in table_lines(text, "8 layers")] == ["50.0", "75.0"]
    assert "4 images x 20 captions" in text and "folds" in text
    assert text.startswith("Layers, pretrain+finetune on tiny/test, seed 3\n")


def test_published_rows_of_the_ablation_stand_below_with_their_data_and_source() -> None:
    layers = sweep_text(sweep(variant(1, recalls(0.5))))
    assert "Published, on flickr30k 1K:\n" in layers and "Sources: Li et al., arXiv:1908.06066v1" in layers
    assert layers.count("ties count") == 1  # How the papers count them is not known.
    assert [line[0] for line in table_lines(layers, "3 layers, first version, pretrain+finetune")] == ["60.1"]
    boxes = sweep_text(sweep(variant(1, recalls(0.5)), ablation="boxes"))
    assert "Published, on coco 1K" in boxes and "36 boxes, " in boxes and "100 boxes, " in boxes
    settings = sweep_text(sweep(variant("zero-shot", recalls(0.5)), ablation="settings", dataset="coco"))
    assert "Published, on coco 1K and coco 5K" in settings and "UNITER" not in settings


def test_published_objectives_have_the_means_that_the_paper_prints_and_their_sum() -> None:
    text = sweep_text(sweep(variant("mlm+itm", recalls(0.5)), ablation="objectives"))
    assert "Published, on flickr30k/val, means of R@1, R@5 and R@10:\n" in text
    assert "Sources: Chen et al., ECCV 2020, table 2." in text
    # Image-to-text is the paper's TR. 3 x (92.87 + 83.73) = 529.80.
    assert table_lines(text, "MLM + ITM + MRC-kl + MRFR  ") == [["92.9", "83.7", "529.8"]]


def test_failed_variant_is_named_with_its_reason_and_the_others_stand() -> None:
    result = sweep(variant(1, recalls(0.5)), variant(2, error="bert/ lacks 16 weights"))
    assert "2 layers failed: bert/ lacks 16 weights" in sweep_text(result)
    assert table_lines(sweep_text(result), "1 layers")
    error = VariantsFailedError(result)
    assert str(error).startswith("1 of 2 variants failed (2 layers)") and "bert/ lacks 16 weights" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and again.sweep == result


def test_nothing_but_failures_is_a_text_and_a_page_too(tmp_path: Path) -> None:
    result = sweep(variant(1, error="no <weights>"))
    assert "1 layers failed: no <weights>" in sweep_text(result)
    publish_sweep(Root(str(tmp_path)), result, {})
    page = (tmp_path / "sweeps/layers-tiny.html").read_text()
    assert "No variant came to its end" in page and "no &lt;weights&gt;" in page


def test_page_needs_nothing_else_and_json_is_the_sweep(tmp_path: Path) -> None:
    result = sweep(variant(1, recalls(0.25)), variant(2, recalls(0.5)), variant(3, error="it broke"))
    publish_sweep(Root(str(tmp_path)), result, {"ablation": "layers", "base": {"note": "</script>"}})
    page = (tmp_path / "sweeps/layers-tiny.html").read_text()
    assert "<h1>Layers, pretrain+finetune on tiny/test, seed 3</h1>" in page and "2025-01-04 12:30 UTC" in page
    assert "recall@1" in page and "<polyline" in page
    assert "3 layers failed" in page and "it broke" in page and "</script>" not in page
    assert "src=" not in page and "http" not in page.replace("http-equiv", "")
    content = json.loads((tmp_path / "sweeps/layers-tiny.json").read_text())
    assert content.pop("params")["ablation"] == "layers"
    assert Sweep.model_validate(content) == result
