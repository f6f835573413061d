"""prefect.yaml without a server: every entrypoint imports, and its parameters are what the flow takes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.operate.deployments import DeploymentSpec, read_project
from flows.params.recipes import recipe
from flows.params.variants import SweepParams

REPOSITORY = Path(__file__).parents[2]
DEPLOYMENTS = read_project(REPOSITORY / "prefect.yaml", Path("/home")).deployments


def entrypoint_flow(deployment: DeploymentSpec) -> Any:
    module, _, name = deployment.entrypoint.rpartition(".")
    return getattr(importlib.import_module(module), name)


def deployment_name(deployment: DeploymentSpec) -> str:
    """FLOW/NAME, as Prefect's commands take it."""
    return f"{entrypoint_flow(deployment).name}/{deployment.name}"


def deployment_named(name: str) -> DeploymentSpec:
    (found,) = (one for one in DEPLOYMENTS if deployment_name(one) == name)
    return found


def test_every_stage_has_a_deployment() -> None:
    stages = {entrypoint_flow(deployment).name for deployment in DEPLOYMENTS}
    assert stages == {"rebuild", "sweep", "download", "extract", "pretrain", "finetune", "evaluate"}


def test_prefect_reads_the_same_deployments() -> None:
    """Its own `prefect deploy --all` would: names are unique, and nothing is declared that is not read here."""
    content = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    assert len(content["deployments"]) == len(set(map(deployment_name, DEPLOYMENTS))) == len(DEPLOYMENTS)
    assert set(content) == {"name", "prefect-version", "definitions", "pull", "deployments"}


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=deployment_name)
def test_a_deployment_says_what_it_is_and_runs_one_at_a_time(deployment: DeploymentSpec) -> None:
    assert deployment.description
    assert deployment.tags[0] == "unicoder-vl"
    assert deployment.concurrency_limit is not None
    assert deployment.concurrency_limit.model_dump() == {"limit": 1, "collision_strategy": "ENQUEUE"}
    assert entrypoint_flow(deployment).flow_run_name is not None


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=deployment_name)
def test_parameters_fit_the_flow(deployment: DeploymentSpec) -> None:
    assert list(deployment.parameters) == ["params"]
    entrypoint_flow(deployment).validate_parameters(deployment.parameters)


@pytest.mark.parametrize(
    "name",
    [
        "rebuild/cc3m",
        "rebuild/coco",
        "rebuild/vl-bert-cc",
        "rebuild/demo",
        "rebuild/uniter-cc",
        "sweep/layers",
        "extract/cc3m",
        "pretrain/cc3m",
        "finetune/flickr30k",
        "finetune/coco",
        "evaluate/flickr30k",
        "evaluate/scheduled",
    ],
)
def test_a_deployment_asks_for_what_the_recipe_does(name: str) -> None:
    """So a run begun by one is found, and gone on with, by the other."""
    params = recipe("unicoder-vl-v3", "data")
    coco = recipe("unicoder-vl-v3-coco", "data")
    watched = {"checkpoint": "newest", "max_drop": 0.02}
    expected = {
        "rebuild/cc3m": lambda: params,
        "rebuild/coco": lambda: coco,
        "rebuild/vl-bert-cc": lambda: recipe("vl-bert-base", "data"),
        "rebuild/demo": lambda: recipe("demo", "data/demo"),
        "rebuild/uniter-cc": lambda: recipe("uniter-base-cc", "data"),
        "sweep/layers": lambda: SweepParams(ablation="layers", base=params),
        "extract/cc3m": params.for_extract,
        "pretrain/cc3m": params.for_pretrain,
        "finetune/flickr30k": params.for_finetune,
        "finetune/coco": coco.for_finetune,
        "evaluate/flickr30k": lambda: params.for_evaluate("pretrain+finetune"),
        "evaluate/scheduled": lambda: params.for_evaluate("zero-shot").model_copy(update=watched),
    }[name]()
    found = type(expected).model_validate(deployment_named(name).parameters["params"])
    # How many shards at once is the worker machine's business.
    assert found.model_dump(exclude={"max_workers"}) == expected.model_dump(exclude={"max_workers"})


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=deployment_name)
def test_unknown_field_is_refused(deployment: DeploymentSpec) -> None:
    from prefect.exceptions import ParameterTypeError

    wrong = {"params": deployment.parameters["params"] | {"no_such_field": 1}}
    with pytest.raises(ParameterTypeError, match="no_such_field"):
        entrypoint_flow(deployment).validate_parameters(wrong)


def test_the_scheduled_evaluation_alone_has_a_cron_and_it_is_valid() -> None:
    from prefect.schedules import Cron

    scheduled = {deployment_name(one): one.schedules for one in DEPLOYMENTS if one.schedules}
    assert list(scheduled) == ["evaluate/scheduled"]
    for schedule in scheduled["evaluate/scheduled"]:
        assert Cron(schedule.cron, timezone=schedule.timezone).cron == schedule.cron


def test_the_scheduled_evaluation_can_watch_a_run_by_its_name() -> None:
    """As its description says."""
    deployment = deployment_named("evaluate/scheduled")
    described = ("setting", "extractor", "pretraining")
    params = {name: value for name, value in deployment.parameters["params"].items() if name not in described}
    entrypoint_flow(deployment).validate_parameters({"params": params | {"run": "finetune-0123456789ab"}})
