"""VL-BERT's recipes, shrunk: sizes, steps, pictures and text are the demo's, all else is the recipe's."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.params.experiment import RebuildParams
from flows.params.recipes import recipe
from flows.results import RebuildResult
from flows.steps.world import world_served
from tests.flows.test_uniter_recipes import WORLD, shrunk

# A rebuild each.
pytestmark = [pytest.mark.flow, pytest.mark.slow, pytest.mark.usefixtures("prefect_harness")]


def with_drawn_text(params: RebuildParams) -> RebuildParams:
    """The same with the demo's passages where text is read."""
    text = recipe("demo-vl-bert", params.root_uri).text_dataset if params.texts else None
    return params.model_copy(update={"text_dataset": text})


@pytest.mark.parametrize("name", ["vl-bert-base", "vl-bert-base-no-text"])
def test_a_recipe_goes_from_rows_to_its_table(name: str, tmp_path: Path) -> None:
    from flows.rebuild import rebuild

    params = with_drawn_text(shrunk(name, str(tmp_path)))
    with world_served(params, WORLD):
        result: RebuildResult = rebuild(params)
    assert [row.setting for row in result.table] == ["chance", "task-specific", "pretrain+finetune"]
    assert Path(result.report_path).is_file()
