"""prefect.yaml without a server: every entrypoint imports, and its parameters are what the flow takes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.recipes import recipe

REPOSITORY = Path(__file__).parents[2]
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]


def entrypoint_flow(deployment: dict[str, Any]) -> Any:
    path, _, name = deployment["entrypoint"].partition(":")
    assert (REPOSITORY / path).is_file()
    return getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)


def test_every_stage_has_a_deployment() -> None:
    stages = {deployment["entrypoint"].partition(":")[2] for deployment in DEPLOYMENTS}
    assert stages == {"rebuild", "download", "extract", "pretrain", "finetune", "evaluate"}


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["entrypoint"])
def test_parameters_fit_the_flow(deployment: dict[str, Any]) -> None:
    flow = entrypoint_flow(deployment)
    assert list(deployment["parameters"]) == ["params"]
    flow.validate_parameters(deployment["parameters"])


@pytest.mark.parametrize("stage", ["rebuild", "extract", "pretrain", "finetune", "evaluate"])
def test_a_deployment_asks_for_what_the_recipe_does(stage: str) -> None:
    """So a run begun by one is found, and gone on with, by the other."""
    params = recipe("unicoder-vl-v3", "data")
    expected = {
        "rebuild": lambda: params,
        "extract": params.for_extract,
        "pretrain": params.for_pretrain,
        "finetune": params.for_finetune,
        "evaluate": lambda: params.for_evaluate("pretrain+finetune"),
    }[stage]()
    (deployment,) = (one for one in DEPLOYMENTS if one["entrypoint"].endswith(f":{stage}"))
    found = type(expected).model_validate(deployment["parameters"]["params"])
    # How many shards at once is the worker machine's business.
    assert found.model_dump(exclude={"max_workers"}) == expected.model_dump(exclude={"max_workers"})


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["entrypoint"])
def test_unknown_field_is_refused(deployment: dict[str, Any]) -> None:
    from prefect.exceptions import ParameterTypeError

    wrong = {"params": deployment["parameters"]["params"] | {"no_such_field": 1}}
    with pytest.raises(ParameterTypeError, match="no_such_field"):
        entrypoint_flow(deployment).validate_parameters(wrong)


def test_evaluation_has_a_valid_cron() -> None:
    from prefect.schedules import Cron

    schedules = [item for deployment in DEPLOYMENTS for item in deployment.get("schedules", [])]
    assert schedules
    for schedule in schedules:
        assert Cron(schedule["cron"], timezone=schedule["timezone"]).cron == schedule["cron"]
