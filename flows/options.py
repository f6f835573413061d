"""The download command's options -> its parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.params import DownloadParams
from tasks.config import DownloadConfig, RetryConfig
from tasks.download_settings import begun_datasets
from tasks.errors import UserError
from tasks.records import Outcome
from tasks.storage import Root

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def rows_params(
    rows: str,
    images: str | None,
    form: str | None,
    columns: str | None,
    url_first: bool,
    name: str,
    shard_size: int | None,
    root: str | None,
    recipe: str | None,
    params: Path | None,
) -> DownloadParams:
    """Parameters for one list of rows, without a recipe.

    Raises:
        UserError: an option contradicts another.
        ValidationError: an option's value cannot be.
    """
    if recipe is not None or params is not None:
        raise UserError("--rows excludes --recipe and --params; give one of them")
    dataset, slash, split = name.partition("/")
    if not slash:
        raise UserError(f"--name {name!r} is not DATASET/SPLIT, such as cc3m/train")
    source: dict[str, Any] = {"rows": rows, "images": images, "form": form, "url_first": url_first}
    if columns is not None:
        caption, comma, url = columns.partition(",")
        if not (caption and comma and url):
            raise UserError(f"--columns {columns!r} is not CAPTION,URL: the names of two columns")
        source |= {"caption_column": caption, "url_column": url}
    described: dict[str, Any] = {"name": dataset, "splits": {split: source}}
    if shard_size is not None:
        described["shard_size"] = shard_size
    return DownloadParams.model_validate({"root_uri": root or "data", "datasets": [described]})


def begun_params(root_uri: str, only: Sequence[str] | None) -> DownloadParams:
    """Parameters that go on with what was begun under a root.

    Raises:
        UserError: nothing was, or splits were begun with different settings.
    """
    datasets, settings = begun_datasets(Root(root_uri), only)
    return DownloadParams(root_uri=root_uri, datasets=tuple(datasets), download=DownloadConfig.model_validate(settings))


def retry_config(only_failed: bool, outcomes: str | None, older_than: str | None) -> RetryConfig | None:
    """Which failures are to be tried again; None where none are.

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
) -> DownloadParams:
    """The parameters with what the command line adds; validated again.

    Raises:
        UserError: a setting is not NAME=VALUE of a field.
        ValidationError: a value cannot be.
    """
    changed = params.model_dump()
    changed |= {"only": only, "shards": shards, "retry": retry, "force": force, "accept_changes": accept_changes}
    if workers is not None:
        changed["max_workers"] = workers
    changed["download"] |= dict(_setting(text) for text in settings)
    return DownloadParams.model_validate(changed)


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or name not in DownloadConfig.model_fields:
        known = ", ".join(DownloadConfig.model_fields)
        raise UserError(f"--set {text!r} is not NAME=VALUE of a download setting; known are {known}")
    if value.lower() in ("none", "null"):
        return name, None
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # A string that is no JSON, such as a user agent; the field's type decides.


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None:
        raise UserError(f"--older-than {text!r} is no time: give a number and s, m, h or d, such as 12h or 7d")
    return float(match[1]) * _UNITS[match[2]]
