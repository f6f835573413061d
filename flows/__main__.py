"""The command line: unicoder-vl, or python -m flows.

Results go to stdout, everything said on the way to stderr. Exit codes: 0 done; 2 bad input, found before anything is
written, one sentence on stderr; 1 a stage failed.
"""

from __future__ import annotations

if __name__ == "__main__":  # Before the seconds of imports below, which Ctrl-C may meet.
    from flows.entry import main as enter

    enter()
    raise SystemExit

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel, TypeAdapter

from flows import checks, options
from flows.changes import read_changes, with_changes
from flows.command import (
    Changed,
    Json,
    MasterAddr,
    MasterPort,
    MaxFailedShare,
    Nnodes,
    NodeRank,
    Params,
    Ray,
    Recipe,
    Root,
    Seed,
    exit_codes,
)
from flows.commands import Commands
from flows.params import RebuildParams
from flows.progress import counts_text, duration
from flows.results import RebuildResult, StageSummary
from flows.run_stage import run_stage
from flows.stage_texts import done_text, losses
from flows.status import read_download_status, read_status, status_text
from flows.world import rows_ready, uses_world, world_served
from tasks.loopback import bypass_proxies_on_loopback
from tasks.records import CheckpointRef, Outcome
from tasks.reports.recall_table import table_text

app = typer.Typer(
    name="unicoder-vl",
    cls=Commands,
    help="Vision-language pretraining from caption/URL rows to a retrieval table. Every command resumes where the last "
    "one ended: what stands is not done again.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def demo(root: Root = None, seed: Seed = None, json: Json = False) -> None:
    """Rows to retrieval table on a self-made small web, in minutes, without network or GPU."""
    with exit_codes():
        _rebuild(_load("demo", None, root, seed), json)


@app.command()
def rebuild(
    root: Root = None,
    recipe: Recipe = None,
    params: Params = None,
    seed: Seed = None,
    set_: Changed = None,
    json: Json = False,
) -> None:
    """All stages: download, extract, pretrain, finetune, evaluate, report."""
    with exit_codes():
        _rebuild(_load(recipe, params, root, seed, set_), json)


@app.command()
def download(
    root: Root = None,
    recipe: Recipe = None,
    params: Params = None,
    rows: Annotated[
        str | None,
        typer.Option("--rows", help="Instead of a recipe: file or URI of rows (.tsv .csv .parquet .json, also .gz)."),
    ] = None,
    images: Annotated[
        str | None, typer.Option("--images", help="With --rows: folder of pictures on disk that the rows name.")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--form", help="With --rows: tsv, csv, parquet, karpathy, coco or tokens.")
    ] = None,
    names: Annotated[
        str | None,
        typer.Option("--names", help="With --images: list of the file names that belong to this split, one a line."),
    ] = None,
    select: Annotated[
        str | None,
        typer.Option("--select", help="With --rows of karpathy: which of its splits, such as train,restval."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", help="With --rows of csv or parquet: CAPTION,URL column names.")
    ] = None,
    url_first: Annotated[bool, typer.Option("--url-first", help="With --rows: the tsv is url TAB caption.")] = False,
    name: Annotated[
        str | None,
        typer.Option("--name", help="With --rows: DATASET/SPLIT, the folder under the root.", show_default="web/train"),
    ] = None,
    shard_size: Annotated[
        int | None, typer.Option("--shard-size", min=1, help="With --rows: rows per shard.", show_default="1024")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Work on this DATASET/SPLIT only; may be given again.")
    ] = None,
    shards: Annotated[str | None, typer.Option("--shards", help="Work on these shards only, such as 0-99,120.")] = None,
    only_failed: Annotated[
        bool, typer.Option("--only-failed", help="Try failed URLs of finished shards again, and nothing else.")
    ] = False,
    outcomes: Annotated[
        str | None,
        typer.Option("--outcomes", help="With --only-failed: these outcomes (dns,timeout,...); else what may pass."),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", help="With --only-failed: last tried so long ago, such as 12h or 7d.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Download the selected shards again.")] = False,
    accept_changes: Annotated[
        bool,
        typer.Option("--accept-changes", help="Rows or settings differ from what the root was begun with: go on."),
    ] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Shards at once, one process each.")] = None,
    ray: Ray = None,
    max_failed_share: MaxFailedShare = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="A setting of the download, such as short_side=none or threads=64; may be repeated."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Caption/URL rows to image shards and captions; or, with --only-failed, another try for failed URLs.

    With neither --rows, --recipe nor --params it goes on with what was begun under the root.
    """
    described = options.RowsOptions(images, form, columns, url_first, names, select, name, shard_size)
    with exit_codes():
        rebuilding = None
        if rows is None:
            described.check_unused()
        if rows is None and recipe is None and params is None:
            loaded = options.begun_params(root or "data", only)
        elif rows is None:
            rebuilding = _load(recipe, params, root, None)
            loaded = rebuilding.for_download()
        else:
            loaded = options.rows_params(rows, described, root, recipe, params)
        loaded = options.with_download_options(
            loaded,
            only=only,
            shards=shards,
            retry=options.retry_config(only_failed, outcomes, older_than),
            force=force,
            accept_changes=accept_changes,
            workers=workers,
            settings=set_ or [],
            max_failed_share=max_failed_share,
            ray=ray,
        )
        with ExitStack() as stack:
            if rebuilding is not None and uses_world(rebuilding):
                stack.enter_context(world_served(rebuilding))
                loaded = loaded.model_copy(update={"accept_changes": True})  # The world may have moved to another port.
            checks.check_download(loaded)
            summaries: list[StageSummary] = run_stage("download", loaded)
        _print_stages(summaries, json)


@app.command()
def extract(
    root: Root = None,
    recipe: Recipe = None,
    params: Params = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Work on this DATASET/SPLIT only; may be given again.")
    ] = None,
    shards: Annotated[str | None, typer.Option("--shards", help="Work on these shards only, such as 0-99,120.")] = None,
    part: Annotated[
        str | None, typer.Option("--part", help="I/N: every Nth shard from I, for N machines that share a root.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Shards at once, one process each: as many as GPUs.")
    ] = None,
    ray: Ray = None,
    max_failed_share: MaxFailedShare = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="A setting of the extractor, such as model=coco-r101-c4 or batch_size=16; may be repeated."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Image shards to feature shards: the regions of every picture.

    With neither --recipe nor --params it works on what was downloaded under the root.
    """
    with exit_codes():
        if recipe is None and params is None:
            loaded = options.begun_extract_params(root or "data", only)
        else:
            loaded = _load(recipe, params, root, None).for_extract()
        loaded = options.with_extract_options(loaded, only, shards, part, workers, set_ or [], max_failed_share, ray)
        checks.check_downloaded(loaded)
        checks.check_extract(loaded)
        summaries: list[StageSummary] = run_stage("extract", loaded)
        _print_stages(summaries, json)


@app.command()
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
    """Feature shards to a pretrained checkpoint.

    Machines train it together where the same command is given on each, with --nnodes, --master-addr and its own
    --node-rank.
    """
    with exit_codes():
        nodes = options.nodes_config(nnodes, node_rank, master_addr, master_port)
        loaded = _load(recipe, params, root, seed, set_).for_pretrain().model_copy(update={"nodes": nodes})
        checks.check_pretrain(loaded)
        checkpoint: CheckpointRef = run_stage("pretrain", loaded)
        _print_checkpoint(checkpoint, json)


@app.command()
def finetune(
    root: Root = None,
    recipe: Recipe = None,
    params: Params = None,
    seed: Seed = None,
    set_: Changed = None,
    setting: Annotated[
        str, typer.Option("--setting", help="pretrain+finetune, or task-specific: without pretraining.")
    ] = "pretrain+finetune",
    nnodes: Nnodes = 1,
    node_rank: NodeRank = None,
    master_addr: MasterAddr = None,
    master_port: MasterPort = 29500,
    json: Json = False,
) -> None:
    """Feature shards, and a pretrained checkpoint, to a retrieval checkpoint. Several machines: as for pretrain."""
    with exit_codes():
        nodes = options.nodes_config(nnodes, node_rank, master_addr, master_port)
        loaded = _load(recipe, params, root, seed, set_)
        checks.check_setting(setting, loaded, ("pretrain+finetune", "task-specific"))
        finetuning = loaded.for_finetune(loaded.task_specific if setting == "task-specific" else None)
        finetuning = finetuning.model_copy(update={"nodes": nodes})
        checks.check_finetune(finetuning)
        checkpoint: CheckpointRef = run_stage("finetune", finetuning)
        _print_checkpoint(checkpoint, json)


@app.command()
def status(
    root: Root = None, recipe: Recipe = None, params: Params = None, seed: Seed = None, json: Json = False
) -> None:
    """How far an experiment is, and the command that would come next. Changes nothing.

    With neither --recipe nor --params it tells how far what is downloaded under the root is.
    """
    with exit_codes():
        if recipe is None and params is None:
            found = read_download_status(root or "data")
            _print(found, status_text(found), json)
            return
        loaded = _load(recipe, params, root, seed)
        source = f"--recipe {recipe}" if params is None else f"--params {params}"
        options = f"{source} --root {loaded.root_uri}" + ("" if seed is None else f" --seed {seed}")
        found = read_status(loaded, options)
        _print(found, status_text(found), json)


@app.command("params")
def print_params(
    root: Root = None, recipe: Recipe = None, params: Params = None, seed: Seed = None, set_: Changed = None
) -> None:
    """Print parameters as JSON, to be edited and given to --params."""
    with exit_codes():
        typer.echo(_load(recipe, params, root, seed, set_).model_dump_json(indent=2))


def _rebuild(params: RebuildParams, json: bool) -> None:
    with rows_ready(params) as ready:
        checks.check_rebuild(ready)
        result: RebuildResult = run_stage("rebuild", ready)
    _print(result, rebuild_text(result), json)


def rebuild_text(result: RebuildResult) -> str:
    """Table, lost rows and why, what was skipped, and where the report is."""
    lines = [table_text(list(result.table)), ""]
    for name, counts in result.outcomes.items():
        rows, ok = sum(counts.values()), counts.get(Outcome.OK, 0)
        lost = {outcome: number for outcome, number in counts.items() if outcome != Outcome.OK}
        lines.append(f"{name}: {ok:,} of {rows:,} rows have an image; lost: {counts_text(lost)}")
    lines += [f"NOT ALL OF THE DATA: {loss}" for loss in losses(result.stages)]
    lines += [
        "",
        f"done now: {done_text(result.stages)} ({duration(result.seconds)})",
        f"done before, skipped: {done_text(result.stages, skipped=True)}",
        f"report: {result.report_path}",
    ]
    return "\n".join(lines)


def _print_stages(summaries: list[StageSummary], json: bool) -> None:
    if json:
        print(TypeAdapter(dict[str, list[StageSummary]]).dump_json({"stages": summaries}).decode())
        return
    for summary in summaries:
        failed = f", {len(summary.failed)} failed" if summary.failed else ""
        print(
            f"{summary.name}: {summary.ran} shards done, {summary.skipped} done before{failed}; "
            f"{counts_text(summary.counts)}"
        )


def _print_checkpoint(checkpoint: CheckpointRef, json: bool) -> None:
    state = "was done before" if checkpoint.skipped else "done"
    _print(checkpoint, f"{checkpoint.run}: {state}, {checkpoint.step} steps\ncheckpoint: {checkpoint.uri}", json)


def _print(result: BaseModel, text: str, json: bool) -> None:
    print(result.model_dump_json() if json else text)


def _load(
    recipe: str | None, params: Path | None, root: str | None, seed: int | None, settings: list[str] | None = None
) -> RebuildParams:
    loaded = checks.load_params(recipe, params, root)
    return with_changes(loaded if seed is None else loaded.with_seed(seed), read_changes(settings or []))


def main() -> None:
    bypass_proxies_on_loopback()
    app()
