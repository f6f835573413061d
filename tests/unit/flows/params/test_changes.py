from __future__ import annotations

from typing import Any

import pytest

from flows.params.changes import read_changes, with_changes
from flows.params.recipes import recipe
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
        ({"pretrain.stepps": 1}, "pretrain.stepps: there is no such field"),
        ({"pretrian.steps": 1}, "pretrian.steps: there is no field 'pretrian'; known are root_uri, "),
        ({"pretrain.steps": 0}, "pretrain.steps: Input should be greater than or equal to 1 (it is 0)"),
        ({"pretrain.steps.x": 0}, r"pretrain.steps.x: steps is 1400 and has no fields; change steps itself"),
        ({"pretrain.min_label_score.x": 0}, "pretrain.min_label_score.x: min_label_score is 0.2 and has no fields"),
        ({"variant.x": 0}, "variant.x: variant is null and has no fields"),
        ({"": 0}, "there is no such field"),
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


def test_the_command_line_takes_json_and_plain_text() -> None:
    assert read_changes(["a.b=3", "c=three", 'd=["x"]', "e=none", "f=x=y", "g="]) == {
        "a.b": 3,
        "c": "three",
        "d": ["x"],
        "e": None,
        "f": "x=y",
        "g": "",
    }


@pytest.mark.parametrize("text", ["steps", "=3"])
def test_what_is_no_change_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not NAME=VALUE"):
        read_changes([text])
