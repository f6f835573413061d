"""Commands that make data: download, extract."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer
from pydantic import TypeAdapter

from flows.commands import shard_options as options
from flows.commands.experiment import load_experiment
from flows.commands.run_stage import run_stage
from flows.commands.shared import (
    Json,
    MaxFailedShare,
    Params,
    Ray,
    Recipe,
    Root,
    exit_codes,
)
from flows.params import checks
from flows.results import StageSummary
from flows.steps.world import uses_world, world_served
from flows.views.progress import counts_text


def download(
    root: Root = None,
    recipe: Recipe = None,
    params: Params = None,
    rows: Annotated[
        str | None,
        typer.Option("--rows", help="Instead of a recipe: file or URI of rows (.tsv .csv .parquet .json, also .gz)."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            help="Instead of a recipe: file, URI or pattern of plain text, one passage a line; may be given again.",
        ),
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
        typer.Option("--name", help="With --rows or --text: DATASET/SPLIT, the folder under the root."),
    ] = None,
    shard_size: Annotated[
        int | None,
        typer.Option("--shard-size", min=1, help="With --rows or --text: rows per shard, else 1024 or 262144."),
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
            "--set",
            help="A setting of the download, such as short_side=none or threads=64, "
            "or a parameter by its dotted name; may be repeated.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Turn caption/URL rows into image shards and captions; or, with --only-failed, try failed URLs again.

    With --text, turn plain text into text shards. With none of --rows, --text, --recipe and --params it goes on with
    what was begun under the root.
    """
    described = options.RowsOptions(images, form, columns, url_first, names, select, name, shard_size)
    with exit_codes():
        rebuilding = None
        if rows is None and not text:
            described.check_unused()
        if text:
            others = any(other is not None for other in (rows, recipe, params))
            loaded = options.text_params(text, described, root, others)
        elif rows is None and recipe is None and params is None:
            loaded = options.begun_params(root or "data", only)
        elif rows is None:
            rebuilding = load_experiment(recipe, params, root, None)
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
            "--set",
            help="A setting of the extractor, such as model=coco-r101-c4 or batch_size=16, "
            "or a parameter by its dotted name; may be repeated.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Turn image shards into feature shards: the regions of every picture.

    With neither --recipe nor --params it works on what was downloaded under the root.
    """
    with exit_codes():
        if recipe is None and params is None:
            loaded = options.begun_extract_params(root or "data", only)
        else:
            loaded = load_experiment(recipe, params, root, None).for_extract()
        loaded = options.with_extract_options(loaded, only, shards, part, workers, set_ or [], max_failed_share, ray)
        checks.check_downloaded(loaded)
        checks.check_extract(loaded)
        summaries: list[StageSummary] = run_stage("extract", loaded)
        _print_stages(summaries, json)


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


def add_commands(app: typer.Typer) -> None:
    app.command("download")(download)
    app.command("extract")(extract)
