"""Commands that train: pretrain, finetune."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.commands import shard_options as options
from flows.commands.experiment import load_experiment, print_result
from flows.commands.run_stage import run_stage
from flows.commands.shared import (
    Changed,
    Json,
    MasterAddr,
    MasterPort,
    Nnodes,
    NodeRank,
    Params,
    Recipe,
    Root,
    Seed,
    exit_codes,
)
from flows.params import checks
from flows.params.changes import with_settings
from flows.params.start import started_from, task_finetuning
from model.downstream.tasks import RETRIEVAL
from tasks.records import CheckpointRef


def pretrain(
    root: Root = None,
    recipe: Recipe = None,
    params: Params = None,
    seed: Seed = None,
    set_: Changed = None,
    nnodes: Nnodes = 1,
    node_rank: NodeRank = None,
    master_addr: MasterAddr = None,
    master_port: MasterPort = 29500,
    json: Json = False,
) -> None:
    """Train on feature shards to a pretrained checkpoint.

    Machines train it together where the same command is given on each, with --nnodes, --master-addr and its own
    --node-rank.
    """
    with exit_codes():
        nodes = options.nodes_config(nnodes, node_rank, master_addr, master_port)
        loaded = load_experiment(recipe, params, root, seed, set_).for_pretrain().model_copy(update={"nodes": nodes})
        checks.check_pretrain(loaded)
        checkpoint: CheckpointRef = run_stage("pretrain", loaded)
        _print_checkpoint(checkpoint, json)


def finetune(
    root: Root = None,
    recipe: Recipe = None,
    params: Params = None,
    seed: Seed = None,
    set_: Changed = None,
    setting: Annotated[
        str, typer.Option("--setting", help="pretrain+finetune, or task-specific: without pretraining.")
    ] = "pretrain+finetune",
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Name of a run under ROOT/runs to start from, such as an imported one: with its encoder, and its "
            "vocabulary where the root is a local folder.",
        ),
    ] = None,
    task: Annotated[
        str, typer.Option("--task", help="What is learnt: retrieval, or another task of model/downstream/tasks.py.")
    ] = RETRIEVAL,
    on: Annotated[
        str | None, typer.Option("--on", help="With --task: DATASET/SPLIT whose examples are learnt from.")
    ] = None,
    nnodes: Nnodes = 1,
    node_rank: NodeRank = None,
    master_addr: MasterAddr = None,
    master_port: MasterPort = 29500,
    json: Json = False,
) -> None:
    """Finetune a pretrained checkpoint on feature shards, for retrieval or another task.

    Several machines: as for pretrain.
    """
    with exit_codes():
        nodes = options.nodes_config(nnodes, node_rank, master_addr, master_port)
        loaded = load_experiment(recipe, params, root, seed, set_ if task == RETRIEVAL else None)
        if task == RETRIEVAL and on is None:
            checks.check_setting(setting, loaded, ("pretrain+finetune", "task-specific"))
            finetuning = loaded.for_finetune(loaded.task_specific if setting == "task-specific" else None)
        else:
            finetuning = task_finetuning(loaded, task, on, setting)
        if from_ is not None:
            finetuning = started_from(finetuning, from_)
        if task != RETRIEVAL:
            finetuning = with_settings(finetuning, set_ or [], "finetune")
        finetuning = finetuning.model_copy(update={"nodes": nodes})
        checks.check_finetune(finetuning)
        checkpoint: CheckpointRef = run_stage("finetune", finetuning)
        _print_checkpoint(checkpoint, json)


def _print_checkpoint(checkpoint: CheckpointRef, json: bool) -> None:
    state = "was done before" if checkpoint.skipped else "done"
    print_result(checkpoint, f"{checkpoint.run}: {state}, {checkpoint.step} steps\ncheckpoint: {checkpoint.uri}", json)


def add_commands(app: typer.Typer) -> None:
    app.command("pretrain")(pretrain)
    app.command("finetune")(finetune)
