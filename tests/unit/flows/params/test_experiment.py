"""Parameters refuse rooms that disagree before anything runs."""

from __future__ import annotations

import builtins
import os
from typing import Any

import pytest
from pydantic import ValidationError

from flows.params.changes import with_settings
from flows.params.checks import validation_text
from flows.params.evaluation import EvaluateParams
from flows.params.experiment import RebuildParams
from flows.params.recipes import recipe
from flows.params.training import FinetuneParams
from flows.params.variants import SweepParams


def changed(path: str, value: object) -> dict[str, Any]:
    """The demo's parameters as JSON with one field changed."""
    content = recipe("demo", "data").model_dump(mode="json")
    *folders, name = path.split(".")
    target = content
    for folder in folders:
        target = target[folder]
    target[name] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("encoder.max_regions", 13, "encoder.max_regions=13 exceeds extractor.max_regions=8"),
        ("pretraining_dataset.name", "retrieval", "both datasets are named 'retrieval'"),
        ("evaluation_split", "dev", "retrieval_dataset has no split 'dev'"),
        ("task_specific.start", "pretrained", "task_specific.start must be 'scratch'"),
        ("pretrain.step", 1, "Extra inputs"),
        ("pretrain.validation_steps", 5, "pretrain.validation_steps is set, but web has no split 'val'"),
    ],
)
def test_disagreement_is_refused(path: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RebuildParams.model_validate(changed(path, value))


def several(corpora: dict[str, Any], *names: str) -> dict[str, Any]:
    """The demo's parameters as JSON with several corpora."""
    content = recipe("demo", "data").model_dump(mode="json")
    web = content.pop("pretraining_dataset")
    content["pretraining_datasets"] = [web | {"name": name} for name in names]
    content["pretrain"] |= {"corpora": corpora}
    return content


def test_several_corpora_are_learnt_from_by_their_names() -> None:
    params = RebuildParams.model_validate(several({"sbu/train": 6, "cc3m/train": 9}, "sbu", "cc3m"))
    assert [dataset.name for dataset in params.datasets] == ["sbu", "cc3m", "retrieval"]
    pretrain = params.for_pretrain()
    assert (pretrain.dataset, pretrain.learnt_from) == ("sbu", "cc3m/train + sbu/train")
    spec = pretrain.spec()
    assert [str(data) for data in (spec.data, *spec.also)] == ["cc3m/train", "sbu/train"]
    assert params.name == "sbu + cc3m to retrieval"
    # The pictures that are finetuned on may be pretrained on.
    same = several({"retrieval/train": 1, "web/train": 2}, "web")
    same["pretraining_datasets"].append(same["retrieval_dataset"])
    assert [dataset.name for dataset in RebuildParams.model_validate(same).datasets] == ["web", "retrieval"]


@pytest.mark.parametrize(
    ("corpora", "names", "message"),
    [
        ({}, ("sbu", "cc3m"), r'needs pretrain.corpora, such as \{"sbu/train": 1, "cc3m/train": 1\}'),
        (
            {"sbu/train": 1, "coco/train": 1},
            ("sbu", "cc3m"),
            "names coco/train, but the splits .* cc3m/train, sbu/train",
        ),
        ({"sbu/train": 1}, ("sbu", "cc3m"), "corpora names one corpus"),
        ({"sbu/train": 1, "cc3m": 1}, ("sbu", "cc3m"), "'cc3m' is not DATASET/SPLIT"),
        ({"sbu/train": 1, "cc3m/train": {"mlm": 1}}, ("sbu", "cc3m"), "cc3m/train has a share for each objective"),
        ({"sbu/train": 1, "retrieval/train": 1}, ("sbu", "retrieval"), "both datasets are named 'retrieval'"),
    ],
)
def test_corpora_that_cannot_be_are_refused_by_name(
    corpora: dict[str, Any], names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        RebuildParams.model_validate(several(corpora, *names))


def changed_to(family: str) -> dict[str, Any]:
    """The demo's parameters as JSON with another encoder."""
    return with_settings(recipe("demo", "data"), [f"encoder.family={family}"]).model_dump(mode="json")


def with_text(objectives: dict[str, float] | None = None, **changed: Any) -> dict[str, Any]:
    """The demo's parameters as JSON, of an encoder that reads text alone beside its pairs."""
    content = changed_to("vl-bert")
    content["text_dataset"] = {"name": "wiki", "splits": {"train": ["wiki.txt"]}} | changed
    content["pretrain"]["objectives"] = objectives or {"mlm": 1, "mlm-text": 1}
    return content


def test_text_alone_is_made_by_the_download_and_learnt_from_in_pretraining() -> None:
    params = RebuildParams.model_validate(with_text())
    assert params.name == "web + wiki to retrieval" and params.datasets == recipe("demo", "data").datasets
    assert [(text.name, split) for text, split in params.for_download().selected_texts()] == [("wiki", "train")]
    pretrain = params.for_pretrain()
    assert pretrain.text == "wiki/train" and pretrain.learnt_from == "web/train + wiki/train"
    assert str(pretrain.spec().text) == "wiki/train"
    assert RebuildParams.model_validate_json(params.model_dump_json()) == params


def test_parameters_without_text_are_written_as_before() -> None:
    params = recipe("demo", "data")
    assert "text_dataset" not in params.model_dump_json() and params.for_pretrain().spec().text is None
    assert "text" not in params.for_pretrain().model_dump()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_text({"mlm": 1}), "text_dataset names text alone, which only the objective mlm-text reads"),
        (with_text(splits={"val": ["wiki.txt"]}), "text_dataset has no split 'train'"),
        (with_text(name="web"), "text_dataset and a dataset of images are both named 'web'"),
        (with_text() | {"encoder": changed_to("uniter")["encoder"]}, "encoder.family=uniter reads no text alone"),
        (changed("pretrain.objectives", {"mlm-text": 1}), "mlm-text, .*; name a corpus of it in text_dataset"),
    ],
)
def test_text_that_cannot_be_is_refused_by_name(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RebuildParams.model_validate(content)


def test_one_share_is_set_by_its_name() -> None:
    params = RebuildParams.model_validate(several({"sbu/train": 6, "cc3m/train": 9}, "sbu", "cc3m"))
    changed = with_settings(params, ["pretrain.combine=draw", "pretrain.corpora.sbu/train=7"])
    assert changed.pretrain.corpora == {"sbu/train": 7.0, "cc3m/train": 9.0}
    each = with_settings(changed, ['pretrain.corpora.sbu/train={"mlm": 8, "vlm": 6}'])
    assert each.pretrain.corpora["sbu/train"] == {"mlm": 8.0, "vlm": 6.0}


def test_without_matching_in_pretraining_there_is_no_zero_shot_row() -> None:
    assert recipe("demo", "data").settings == ("zero-shot", "task-specific", "pretrain+finetune")
    without = RebuildParams.model_validate(changed("pretrain.objectives", {"mlm": 1, "moc": 1}))
    assert without.settings == ("task-specific", "pretrain+finetune")


def test_finetuning_a_pretrained_run_needs_its_parameters_and_its_encoder() -> None:
    full = recipe("demo", "data").for_finetune().model_dump()
    with pytest.raises(ValidationError, match="needs the parameters of a pretraining run"):
        FinetuneParams.model_validate(full | {"pretraining": None})
    other = full["encoder"] | {"num_layers": 3}
    with pytest.raises(ValidationError, match=r"encoder differs from pretraining\.encoder"):
        FinetuneParams.model_validate(full | {"encoder": other})
    # What is no part of a run may differ.
    FinetuneParams.model_validate(full | {"encoder": full["encoder"] | {"sequences": "padded"}})


@pytest.mark.parametrize("seed", [2**63, 2**64, -1])
@pytest.mark.parametrize("name", ["pretrain", "finetune", "task_specific"])
def test_a_seed_that_not_all_generators_take_is_refused(name: str, seed: int) -> None:
    with pytest.raises(ValidationError, match=rf"{name}\.seed\n.* (less|greater) than"):
        RebuildParams.model_validate(changed(f"{name}.seed", seed))
    with pytest.raises(ValidationError, match="seed"):
        recipe("demo", "data").with_seed(seed)


def test_the_largest_seed_is_one_of_its_own() -> None:
    params = recipe("demo", "data").with_seed(2**63 - 1)
    assert {params.pretrain.seed, params.finetune.seed, params.task_specific.seed} == {2**63 - 1}


def test_a_setting_scores_the_run_it_names() -> None:
    params = recipe("demo", "data")
    full = params.for_evaluate("pretrain+finetune").model_dump()
    with pytest.raises(ValidationError, match="start='scratch'"):
        EvaluateParams.model_validate(full | {"setting": "task-specific"})
    with pytest.raises(ValidationError, match="needs pretraining"):
        EvaluateParams.model_validate(full | {"setting": "zero-shot"})


def test_an_evaluation_is_of_a_described_run_or_of_a_named_one() -> None:
    described = recipe("demo", "data").for_evaluate("pretrain+finetune").model_dump()
    named = {"root_uri": "data", "run": "finetune-1", "dataset": "retrieval"}
    assert EvaluateParams.model_validate(named).subject == "finetune-1"
    assert EvaluateParams.model_validate(described).subject == "pretrain+finetune"
    with pytest.raises(ValidationError, match="says by itself what it is; leave setting, extractor, finetuning out"):
        EvaluateParams.model_validate(described | {"run": "finetune-1"})
    with pytest.raises(ValidationError, match="set run, or setting and the parameters of its training"):
        EvaluateParams.model_validate({"root_uri": "data", "dataset": "retrieval"})
    with pytest.raises(ValidationError, match="setting='pretrain\\+finetune' needs extractor"):
        EvaluateParams.model_validate(described | {"extractor": None})


@pytest.mark.parametrize(("given", "read"), [("result", "result"), ("newest", "newest"), ("350", 350), (350, 350)])
def test_a_checkpoint_is_chosen_by_word_or_step(given: str | int, read: str | int) -> None:
    params = {"root_uri": "data", "run": "finetune-1", "dataset": "retrieval", "checkpoint": given}
    assert EvaluateParams.model_validate(params).checkpoint == read
    assert (
        EvaluateParams.model_validate_json(EvaluateParams.model_validate(params).model_dump_json()).checkpoint == read
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": "best"}, "checkpoint: there is no checkpoint 'best': it is result, newest or a step"),
        ({"checkpoint": -1}, "checkpoint: there is no checkpoint '-1'"),
        ({"checkpoint": None}, "checkpoint: there is no checkpoint 'None'"),
        ({"max_drop": -0.1}, "max_drop: Input should be greater than or equal to 0"),
        ({"max_drop": 2}, "max_drop: Input should be less than or equal to 1"),
    ],
)
def test_what_cannot_be_is_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        EvaluateParams.model_validate({"root_uri": "data", "run": "finetune-1", "dataset": "retrieval"} | changes)
    assert validation_text(refused.value).startswith(message)


def test_parameters_are_read_without_a_look_at_any_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = recipe("demo", "/nowhere")
    models = (
        whole,
        whole.for_download(),
        whole.for_extract(),
        whole.for_pretrain(),
        whole.for_finetune(),
        whole.for_evaluate("zero-shot"),
        EvaluateParams(root_uri="/nowhere", run="finetune-1", dataset="a", checkpoint="newest"),
        SweepParams(ablation="layers", base=whole),
    )
    texts = [model.model_dump_json() for model in models]

    def looked(*arguments: object, **_: object) -> None:
        raise AssertionError(f"a look at {arguments}")

    for module, name in ((builtins, "open"), (os, "stat"), (os, "listdir"), (os, "scandir"), (os, "open")):
        monkeypatch.setattr(module, name, looked)
    read = [type(model).model_validate_json(text) for model, text in zip(models, texts, strict=True)]
    monkeypatch.undo()
    assert read == list(models)


def test_a_stage_has_what_it_shares_with_the_experiment() -> None:
    whole = recipe("demo", "/x").model_copy(update={"max_failed_share": 0.5, "variant": "3 layers", "max_workers": 7})
    own = {"finetune", "setting"}
    for stage in (
        whole.for_download(),
        whole.for_extract(),
        whole.for_pretrain(),
        whole.for_finetune(whole.task_specific),
        *(whole.for_evaluate(setting) for setting in whole.settings),
    ):
        shared = type(stage).model_fields.keys() & RebuildParams.model_fields.keys() - own
        assert len(shared) >= 4
        assert {name: getattr(stage, name) for name in shared} == {name: getattr(whole, name) for name in shared}
