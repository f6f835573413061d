from __future__ import annotations

from typing import Any

import pytest

from flows.params.changes import with_changes, with_settings
from flows.params.recipes import recipe
from model.downstream.retrieval.config import Shortlist
from model.families.uniter_config import UniterConfig
from tasks.errors import UserError

PARAMS = recipe("demo", "data")


def test_a_field_at_any_depth_is_changed_and_all_others_stay() -> None:
    changed = with_changes(PARAMS, {"max_workers": 7, "pretrain.steps": 3, "pretrain.optim.learning_rate": 0.5})
    assert (changed.max_workers, changed.pretrain.steps, changed.pretrain.optim.learning_rate) == (7, 3, 0.5)
    back = with_changes(
        changed,
        {
            "max_workers": PARAMS.max_workers,
            "pretrain.steps": PARAMS.pretrain.steps,
            "pretrain.optim.learning_rate": PARAMS.pretrain.optim.learning_rate,
        },
    )
    assert back == PARAMS


def test_positions_in_lists_and_keys_of_mappings_are_names_too() -> None:
    params = PARAMS.for_download()
    changed = with_changes(params, {"datasets.1.shard_size": 5, "datasets.0.splits.train": "other.tsv"})
    assert [dataset.shard_size for dataset in changed.datasets] == [params.datasets[0].shard_size, 5]
    assert changed.datasets[0].rows_config("train").rows == "other.tsv"


def test_no_changes_are_no_changes() -> None:
    assert with_changes(PARAMS, None) is PARAMS
    assert with_changes(PARAMS, {}) is PARAMS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrain.stepps": 1}, "pretrain.stepps: there is no field 'stepps'; known are steps, batch_size, "),
        ({"pretrian.steps": 1}, "pretrian.steps: there is no field 'pretrian'; known are root_uri, "),
        ({"pretrain.steps": 0}, "pretrain.steps: Input should be greater than or equal to 1 (it is 0)"),
        (
            {"pretrain.optim": {"rate": 1}},
            "pretrain.optim.rate: there is no such field; known are learning_rate, ",
        ),
        ({"download.headers": 3}, "download.headers: Input should be a valid dictionary (it is 3)"),
        ({"pretrain.steps.x": 0}, r"pretrain.steps.x: steps is 1400 and has no fields; change steps itself"),
        ({"pretrain.min_label_score.x": 0}, "pretrain.min_label_score.x: min_label_score is 0.2 and has no fields"),
        ({"variant.x": 0}, "variant.x: variant is null and has no fields"),
        ({"": 0}, "there is no field ''; known are root_uri, "),
    ],
)
def test_what_cannot_be_changed_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        with_changes(PARAMS, changes)
    assert message in str(raised.value)


@pytest.mark.parametrize("place", ["2", "-1", "first"])
def test_a_position_that_is_not_there_is_named(place: str) -> None:
    with pytest.raises(UserError, match=f"{place} is not a position in a list of 2"):
        with_changes(PARAMS.for_download(), {f"datasets.{place}.shard_size": 5})


def test_a_setting_is_json_or_text_or_a_list_whichever_its_field_takes() -> None:
    extract = PARAMS.for_extract()
    settings = ["min_score=1e-1", "model=2020", "trust_weights=true", "weights=none", "max_regions=36"]
    extractor = with_settings(extract, settings, "extractor").extractor
    assert (extractor.min_score, extractor.model, extractor.max_regions) == (0.1, "2020", 36)
    assert extractor.trust_weights is True and extractor.weights is None
    scoring = with_settings(
        PARAMS.for_evaluate("zero-shot"),
        ["protocols=all, folds:1000", "batch_size=7", 'shortlist={"size": 50}', "num_processes=none"],
        "scoring",
    ).scoring
    assert scoring == PARAMS.scoring.model_copy(
        update={"protocols": ("all", "folds:1000"), "batch_size": 7, "shortlist": Shortlist(size=50)}
    )
    download = with_settings(
        PARAMS.for_download(),
        ['headers={"A": "b=c"}', "headers.Referer=3", "opt_out_directives=", "user_agent=none", "short_side=null"],
        "download",
    ).download
    assert download.headers == {"A": "b=c", "Referer": "3"}
    assert (download.opt_out_directives, download.user_agent, download.short_side) == ((), "none", None)


def test_one_grammar_serves_the_whole_and_a_command_s_own_section() -> None:
    params = PARAMS.for_download()
    short = with_settings(params, ["threads=3"], "download")
    assert (
        short
        == with_settings(params, ["download.threads=3"], "download")
        == with_settings(params, ["download.threads=3"])
    )
    assert short.download.threads == 3
    deep = with_settings(params, ["datasets.1.splits.train=7", "max_workers=5"], "download")
    assert deep.max_workers == 5 and deep.datasets[1].rows_config("train").rows == "7"
    assert with_settings(params, [], "download") is params


def test_a_word_that_a_field_reads_by_itself_is_a_setting_too() -> None:
    evaluate = PARAMS.for_evaluate("zero-shot")
    for text, read in (("newest", "newest"), ("5", 5)):
        assert with_settings(evaluate, [f"checkpoint={text}"], "scoring").checkpoint == read
    with pytest.raises(UserError, match="there is no checkpoint 'best': it is result, newest or a step"):
        with_settings(evaluate, ["checkpoint=best"], "scoring")


def test_settings_are_judged_together() -> None:
    settings = ["encoder.hidden_size=36", "scoring.protocols=all,folds:4", "encoder.num_heads=6"]
    changed = with_settings(PARAMS, settings)
    assert (changed.encoder.hidden_size, changed.scoring.protocols) == (36, ("all", "folds:4"))
    with pytest.raises(UserError, match="encoder: hidden_size=36 is not a multiple of num_heads=5"):
        with_settings(PARAMS, [*settings, "encoder.num_heads=5"])


@pytest.mark.parametrize("text", ["steps", "=3"])
def test_what_is_no_setting_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"is not NAME=VALUE, such as pretrain\.steps=1000"):
        with_settings(PARAMS, [text])
    with pytest.raises(UserError, match=r"is not NAME=VALUE, such as scoring\.batch_size=512"):
        with_settings(PARAMS.for_evaluate("zero-shot"), [text], "scoring")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("side=3", "--set side: there is no setting 'side'; known are threads, per_host, "),
        ("side=3", "allow_private_addresses, min_success_rate, all of download, and of the whole root_uri, datasets, "),
        ("download.side=3", "download.side: there is no field 'side'; known are threads, "),
        ("threads=many", "download.threads: Input should be a valid integer"),
        ("threads=none", "download.threads: Input should be a valid integer (it is None)"),
        ("opt_out_directives=[1]", "download.opt_out_directives.0: Input should be a valid string (it is 1)"),
        ("datasets.0.splits.train.row=x", "datasets.0.splits.train.row: train is "),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_what_there_is(setting: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        with_settings(PARAMS.for_download(), [setting], "download")
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_name_of_before_sets_what_it_is_called_now() -> None:
    params = PARAMS
    for changed in (
        with_settings(params, ["pretrain.matching_weight=10"]),
        with_changes(params, {"pretrain.matching_weight": 10}),
        with_settings(params, ["pretrain.objectives.vlm=10"]),
    ):
        assert changed.pretrain.objectives == {"mlm": 1, "moc": 1, "vlm": 10}


def test_the_number_of_best_classes_is_still_set_by_its_name_of_before() -> None:
    for given in (
        with_settings(PARAMS, ["top_labels=5"], "extractor"),
        with_settings(PARAMS, ["extractor.class_scores=top:5"]),
        with_changes(PARAMS, {"extractor.top_labels": 5}),
    ):
        assert given.extractor.class_scores == "top:5"
    assert with_settings(PARAMS, ["top_labels=0"], "extractor") == PARAMS


def test_another_family_keeps_sizes_and_takes_its_own_fields() -> None:
    changed = with_settings(PARAMS, ["encoder.family=uniter", "encoder.type_rows=3"])
    encoder = changed.encoder
    assert isinstance(encoder, UniterConfig) and encoder.type_rows == 3
    assert (encoder.hidden_size, encoder.num_layers) == (PARAMS.encoder.hidden_size, PARAMS.encoder.num_layers)
    assert with_changes(PARAMS, {"encoder.family": "unicoder-vl"}) == PARAMS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["encoder.family=uniter", "encoder.box_code=corners"],
            "there is no field 'box_code'; known are family, hidden",
        ),
        (["encoder.family=vilt"], "encoder: family is none of unicoder-vl, uniter"),
        (["encoder.family=uniter", "encoder.type_rows=9"], "encoder.type_rows: Input should be less than or equal"),
        (['encoder={"family": "uniter", "colour": 1}'], "encoder.colour: there is no such field; known are family, "),
    ],
)
def test_what_a_family_does_not_take_is_named(settings: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        with_settings(PARAMS, settings)
    assert message in str(raised.value) and "box_code," not in str(raised.value)
