"""A sweep's variants differ in the one thing that is swept, and in nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from flows.commands.sweep import sweep_params
from flows.params.changes import with_changes
from flows.params.checks import validation_text
from flows.params.experiment import RebuildParams
from flows.params.recipes import recipe
from flows.params.variants import SweepParams
from tasks.errors import UserError

DEMO = recipe("demo", "data")
PAPER = recipe("unicoder-vl-v1-coco", "data")


def differences(one: Any, other: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted path -> both values, of every leaf that differs."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        found = {}
        for name in one:
            found |= differences(one[name], other[name], f"{path}.{name}" if path else name)
        return found
    return {} if one == other else {path: (one, other)}


def changes(base: RebuildParams, variant: RebuildParams) -> dict[str, tuple[Any, Any]]:
    return differences(base.model_dump(mode="json"), variant.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("base", "ablation", "field", "values"),
    [
        (PAPER, "layers", "encoder.num_layers", [3, 6, 12]),
        (PAPER, "boxes", "encoder.max_regions", [36, 100]),
        (DEMO, "layers", "encoder.num_layers", [1, 2]),
        (DEMO, "boxes", "encoder.max_regions", [2, 4, 8]),
    ],
)
def test_each_variant_differs_in_exactly_the_swept_field(
    base: RebuildParams, ablation: str, field: str, values: list[int]
) -> None:
    variants = sweep_params(ablation, None, base).variants()
    assert [variant.value for variant in variants] == values
    whole = values[-1]
    for variant in variants:
        expected = {} if variant.value == whole else {field: (whole, variant.value), "variant": (None, variant.name)}
        assert changes(base, variant.params) == expected
        assert variant.setting == "pretrain+finetune"
        assert RebuildParams.model_validate(variant.params.model_dump()) == variant.params


def test_an_evaluation_of_a_variant_says_so() -> None:
    few, whole = sweep_params("layers", "1,2", DEMO).variants()
    assert few.params.for_evaluate("pretrain+finetune").variant == "1 layer"
    assert whole.params.for_evaluate("pretrain+finetune").variant is None


SCORED = with_changes(recipe("demo-uniter", "data"), {"extractor.class_scores": "all"})


def test_objectives_are_those_of_the_published_table_and_nothing_else_changes() -> None:
    variants = sweep_params("objectives", None, SCORED).variants()
    assert [variant.name for variant in variants] == [
        "MLM",
        "MLM + ITM",
        "MLM + ITM + MRFR",
        "MLM + ITM + MRC",
        "MLM + ITM + MRC-kl",
        "MLM + ITM + MRC-kl + MRFR",
        "MLM + ITM + MRC-kl + MRFR + WRA",
    ]
    for variant in variants:
        assert variant.setting == "pretrain+finetune"
        assert variant.params.variant == f"UNITER, {variant.name}"
        own = {"pretrain": variant.params.pretrain, "variant": variant.params.variant}
        assert variant.params == SCORED.model_copy(update=own)
        same = {"objectives": SCORED.pretrain.objectives, "alignment_weight": SCORED.pretrain.alignment_weight}
        assert variant.params.pretrain.model_copy(update=same) == SCORED.pretrain
        assert RebuildParams.model_validate(variant.params.model_dump()) == variant.params


def test_objectives_keep_the_experiments_shares_and_wra_is_the_alignment() -> None:
    first, *_, without, aligned = sweep_params("objectives", None, SCORED).variants()
    assert first.params.pretrain.objectives == {"mlm": 2.0}
    assert without.params.pretrain.objectives == {"mlm": 2.0, "itm": 2.0, "mrfr": 1.0, "mrc-kl": 1.0}
    assert (without.params.pretrain.alignment_weight, aligned.params.pretrain.alignment_weight) == (0.0, 0.1)
    none = with_changes(SCORED, {"pretrain.alignment_weight": 0.0})
    (found,) = sweep_params("objectives", "mlm+itm+wra", none).variants()
    assert found.params.pretrain.alignment_weight == 0.1


def test_the_experiments_own_objectives_are_no_variant_of_it() -> None:
    base = recipe("demo-uniter", "data")
    (own,) = sweep_params("objectives", "mlm+mrc+mrfr+itm+wra", base).variants()
    assert own.params == base


def test_images_and_features_are_the_same_for_every_variant() -> None:
    for ablation in ("layers", "boxes", "settings"):
        for variant in sweep_params(ablation, None, PAPER).variants():
            assert variant.params.for_download() == PAPER.for_download()
            assert variant.params.for_extract() == PAPER.for_extract()
            assert variant.params.extractor.max_regions == 100


def test_settings_are_those_that_the_experiment_has() -> None:
    variants = sweep_params("settings", None, DEMO).variants()
    assert [(variant.name, variant.setting) for variant in variants] == [(one, one) for one in DEMO.settings]
    assert all(variant.params == DEMO for variant in variants)
    without = DEMO.model_copy(update={"task_specific": None})
    assert [variant.name for variant in sweep_params("settings", None, without).variants()] == [
        "zero-shot",
        "pretrain+finetune",
    ]


def test_values_are_taken_in_their_order_and_once() -> None:
    variants = sweep_params("layers", "2, 1,2", DEMO).variants()
    assert [variant.name for variant in variants] == ["2 layers", "1 layer"]
    assert [variant.name for variant in sweep_params("boxes", "1,5", DEMO).variants()] == ["1 box", "5 boxes"]


def test_a_small_experiment_has_no_variant_twice() -> None:
    one_layer = DEMO.model_copy(update={"encoder": DEMO.encoder.model_copy(update={"num_layers": 1})})
    assert [variant.value for variant in sweep_params("layers", None, one_layer).variants()] == [1]


@pytest.mark.parametrize(
    ("ablation", "values", "message"),
    [
        ("layers", "1,0", "0 is no number of layers: give whole numbers from 1, such as 3,6,12"),
        ("layers", "1,", "'' is no number of layers"),
        ("layers", "-1", "'-1' is no number of layers"),
        ("boxes", "4,9", "boxes=9 exceeds extractor.max_regions=8"),
        (
            "objectives",
            "mlm+itn",
            "mlm+itn: there is no objective 'itn'; known are mlm, moc, vlm, itm, mrfr, mrc, mrc-kl",
        ),
        ("objectives", "mlm,3", "3: there is no objective '3'"),
        ("objectives", "mlm+wra", "mlm+wra: wra aligns the pairs of itm; name both, as in mlm+itm+wra"),
        (
            "objectives",
            None,
            "mlm+itm+mrc-kl: mrc-kl learns distributions over classes, but extractor.class_scores=none",
        ),
        ("settings", "best", "there is no setting 'best' here; known are zero-shot, task-specific, pretrain+finetune"),
    ],
)
def test_values_that_cannot_be_are_named(ablation: str, values: str | None, message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        sweep_params(ablation, values, DEMO)
    assert validation_text(raised.value).startswith(message)


def test_unknown_sweep_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="no sweep of 'depth'; known are layers, boxes, settings, objectives"):
        sweep_params("depth", None, DEMO)


def test_parameters_survive_json() -> None:
    params = sweep_params("boxes", "2,4", DEMO)
    assert SweepParams.model_validate_json(params.model_dump_json()) == params
    assert json.loads(params.model_dump_json())["values"] == [2, 4]


def test_files_are_named_by_what_is_swept_where_and_with_which_seed() -> None:
    assert sweep_params("layers", None, PAPER).name == "layers-coco"
    assert sweep_params("layers", None, DEMO.with_seed(2)).name == "layers-retrieval-seed2"
