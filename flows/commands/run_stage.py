"""Run a stage as a flow where a Prefect server is configured, else without Prefect."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from flows.operate.server import configured_api_url, use_server, wait_for_server
from flows.params.shards import Params


def run_stage(stage: str, params: Params) -> Any:
    """Run download, extract, pretrain, finetune, evaluate, rebuild or sweep to its end; return what its flow returns.

    A run that no server is told of nobody would see, so without one Prefect is not even imported: a command that finds
    all done ends in a second, where a server of its own alone would cost several.

    Raises:
        UserError, StageError: what the stage ends with; or the server does not answer.
    """
    if configured_api_url() is None:
        return getattr(import_module("flows.steps.direct"), f"{stage}_directly")(params)
    use_server()
    flow = getattr(import_module(f"flows.{stage}"), stage)
    wait_for_server()
    return flow(params)
