"""Turn the options of download, extract and evaluate into their parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.params.changes import with_settings
from flows.params.shards import DownloadParams, ExtractParams
from tasks.config import RowsConfig, TextDatasetConfig
from tasks.download.config import DownloadConfig, RetryConfig
from tasks.download.settings import begun_datasets, begun_splits
from tasks.download.text import begun_texts
from tasks.errors import UserError
from tasks.records import Outcome
from tasks.storage.root import Root
from tasks.workers.machines import NodesConfig

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True)
class RowsOptions:
    """The options that describe the rows of --rows; None, or False, where not given."""

    images: str | None = None
    form: str | None = None
    columns: str | None = None
    url_first: bool = False
    names: str | None = None
    select: str | None = None
    name: str | None = None
    shard_size: int | None = None

    def given(self) -> list[str]:
        """The options that were given."""
        return [f"--{field.replace('_', '-')}" for field, value in vars(self).items() if value not in (None, False)]

    def check_unused(self) -> None:
        """Raise UserError where options describe --rows and there are none."""
        given = self.given()
        if given:
            raise UserError(
                f"{', '.join(given)} can only be given with --rows; a --params file says the same in datasets"
            )


def rows_params(
    rows: str, described: RowsOptions, root: str | None, recipe: str | None, params: Path | None
) -> DownloadParams:
    """Parameters for one list of rows, without a recipe.

    Raises:
        UserError: an option contradicts another, or cannot be read.
        ValidationError: an option's value cannot be.
    """
    if recipe is not None or params is not None:
        raise UserError("--rows excludes --recipe and --params; give one of them")
    dataset, split = _named(described.name or "web/train")
    source: dict[str, Any] = {
        "rows": rows,
        "images": described.images,
        "form": described.form,
        "url_first": described.url_first,
        "names": described.names,
    }
    if described.columns is not None:
        caption, url = _names_of(described.columns, "--columns", "CAPTION,URL: the names of two columns", 2)
        source |= {"caption_column": caption, "url_column": url}
    if described.select is not None:
        source["select"] = _names_of(described.select, "--select", "a list of splits, such as train,restval")
    # Validated by itself: pydantic would name every member of a union that it is not.
    found: dict[str, Any] = {"name": dataset, "splits": {split: RowsConfig.model_validate(source)}}
    if described.shard_size is not None:
        found["shard_size"] = described.shard_size
    return DownloadParams.model_validate({"root_uri": root or "data", "datasets": [found]})


def text_params(files: Sequence[str], described: RowsOptions, root: str | None, excluded: bool) -> DownloadParams:
    """Parameters for one corpus of text.

    Args:
        files: paths, URIs or patterns.
        described: of these only name and shard_size are of text.
        excluded: whether rows, a recipe or params were given too.

    Raises:
        UserError: an option contradicts another, or cannot be read.
        ValidationError: an option's value cannot be.
    """
    if excluded:
        raise UserError("--text excludes --rows, --recipe and --params; give one of them")
    given = [option for option in described.given() if option not in ("--name", "--shard-size")]
    if given:
        raise UserError(f"{', '.join(given)} can only be given with --rows, and --text has none")
    dataset, split = _named(described.name or "text/train")
    found: dict[str, Any] = {"name": dataset, "splits": {split: tuple(files)}}
    if described.shard_size is not None:
        found["shard_passages"] = described.shard_size
    return DownloadParams.model_validate({"root_uri": root or "data", "texts": [found]})


def _named(name: str) -> tuple[str, str]:
    """Dataset and split of a --name."""
    if re.fullmatch(r"[A-Za-z0-9_-]+/[A-Za-z0-9_-]+", name) is None:
        raise UserError(f"--name {name!r} is not DATASET/SPLIT, such as cc3m/train: letters, digits, '-' and '_'")
    dataset, _, split = name.partition("/")
    return dataset, split


def begun_params(root_uri: str, only: Sequence[str] | None) -> DownloadParams:
    """Parameters that continue a download begun under a root.

    Raises:
        UserError: nothing was, or splits were begun with different settings.
    """
    root = Root(root_uri)
    texts = begun_texts(root)
    names = [f"{dataset}/{split}" for dataset, split in texts]
    images = None if only is None else [name for name in only if name not in names]
    # Without images under the root there are no settings of theirs.
    only_text = bool(texts) and (not begun_splits(root) if images is None else not images)
    datasets, settings = ([], {}) if only_text else begun_datasets(root, images)
    return DownloadParams(
        root_uri=root_uri,
        datasets=tuple(datasets),
        texts=tuple(
            TextDatasetConfig(name=dataset, splits={split: found.patterns}, shard_passages=found.shard_passages)
            for (dataset, split), found in texts.items()
            if only is None or f"{dataset}/{split}" in only
        ),
        download=DownloadConfig.model_validate(settings),
    )


def retry_config(only_failed: bool, outcomes: str | None, older_than: str | None) -> RetryConfig | None:
    """Which failures are tried again; None for none.

    Raises:
        UserError: an option cannot be read, or needs --only-failed.
    """
    if not only_failed:
        if outcomes is not None or older_than is not None:
            raise UserError("--outcomes and --older-than say which failures to try again: add --only-failed")
        return None
    chosen: dict[str, Any] = {}
    if outcomes is not None:
        names = [part.strip() for part in outcomes.split(",")]
        known = [outcome.value for outcome in Outcome]
        for outcome in names:
            if outcome not in known:
                raise UserError(f"there is no outcome {outcome!r}; known are {', '.join(known)}")
        chosen["outcomes"] = names
    if older_than is not None:
        chosen["older_than_seconds"] = _seconds(older_than)
    return RetryConfig.model_validate(chosen)


def with_download_options(
    params: DownloadParams,
    only: Sequence[str] | None,
    shards: str | None,
    retry: RetryConfig | None,
    force: bool,
    accept_changes: bool,
    workers: int | None,
    settings: Sequence[str],
    max_failed_share: float | None = None,
    ray: str | None = None,
) -> DownloadParams:
    """Add the command line's options to the parameters, validated again.

    Raises:
        UserError: there is no such setting or it cannot be, shards cannot be read, or options contradict each other.
        ValidationError: a value cannot be.
    """
    if retry is not None and force:
        raise UserError(
            "--only-failed and --force exclude each other: all of a shard is downloaded again, or its failures"
        )
    _check_shards(shards)
    changed = params.model_dump()
    changed |= {"only": only, "shards": shards, "retry": retry, "force": force, "accept_changes": accept_changes}
    if workers is not None:
        changed["max_workers"] = workers
    if max_failed_share is not None:
        changed["max_failed_share"] = max_failed_share
    if ray is not None:
        changed["ray"] = _ray_cluster(ray)
    return with_settings(DownloadParams.model_validate(changed), settings, "download")


def begun_extract_params(root_uri: str, only: Sequence[str] | None) -> ExtractParams:
    """Parameters that extract the downloads begun under a root.

    Raises:
        UserError: nothing was, or splits were begun with different settings.
    """
    datasets, _ = begun_datasets(Root(root_uri), only)
    return ExtractParams(root_uri=root_uri, datasets=tuple(datasets))


def with_extract_options(
    params: ExtractParams,
    only: Sequence[str] | None,
    shards: str | None,
    part: str | None,
    workers: int | None,
    settings: Sequence[str],
    max_failed_share: float | None = None,
    ray: str | None = None,
) -> ExtractParams:
    """Add the command line's options to the parameters, validated again.

    Raises:
        UserError: there is no such setting or it cannot be, or shards or a part cannot be read.
        ValidationError: a value cannot be.
    """
    _check_shards(shards)
    if part is not None and re.fullmatch(r"\d+/[1-9]\d*", part) is None:
        raise UserError(f"--part {part!r} cannot be read: give I/N, such as 0/4 for the first of four machines")
    changed = params.model_dump() | {"only": only, "shards": shards, "part": part}
    if workers is not None:
        changed["max_workers"] = workers
    if max_failed_share is not None:
        changed["max_failed_share"] = max_failed_share
    if ray is not None:
        changed["ray"] = _ray_cluster(ray)
    return with_settings(ExtractParams.model_validate(changed), settings, "extractor")


def nodes_config(nnodes: int, node_rank: int | None, master_addr: str | None, master_port: int) -> NodesConfig | None:
    """The nodes that train together; None where this one is alone.

    Raises:
        UserError: one of them is missing.
        ValidationError: there is no such node.
    """
    if nnodes == 1:
        if node_rank:
            raise UserError(f"--node-rank {node_rank} without --nnodes: say how many machines train together")
        return None
    if node_rank is None or master_addr is None:
        raise UserError(
            f"--nnodes {nnodes} needs --node-rank, which of them this is (0 to {nnodes - 1}), and --master-addr, where "
            "node 0 is"
        )
    return NodesConfig(nnodes=nnodes, node_rank=node_rank, master_addr=master_addr, master_port=master_port)


def _ray_cluster(text: str) -> Any:
    """Parse --ray: an address, or all of a RayConfig as JSON."""
    try:
        return json.loads(text) if text.startswith("{") else text
    except ValueError as error:
        raise UserError(f"--ray {text!r} is neither an address nor JSON ({error})") from error


def _check_shards(shards: str | None) -> None:
    if shards is not None and re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", shards) is None:
        raise UserError(f"--shards {shards!r} cannot be read: give numbers and ranges, such as 0-99,120")


def _names_of(text: str, option: str, expected: str, number: int | None = None) -> list[str]:
    """The names in a list with commas: exactly so many, or at least one."""
    names = [part.strip() for part in text.split(",")]
    if not all(names) or number not in (None, len(names)):
        raise UserError(f"{option} {text!r} is not {expected}")
    return names


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None:
        raise UserError(f"--older-than {text!r} is no time: give a number and s, m, h or d, such as 12h or 7d")
    return float(match[1]) * _UNITS[match[2]]
