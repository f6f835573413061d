"""The options of a command become parameters, or one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows.commands.shard_options import (
    RowsOptions,
    begun_params,
    nodes_config,
    retry_config,
    rows_params,
    text_params,
    with_download_options,
    with_extract_options,
)
from flows.params.changes import with_settings
from flows.params.checks import validation_text
from flows.params.recipes import recipe
from flows.params.shards import DownloadParams, ExtractParams
from tasks.config import DatasetConfig, RowsConfig, TextDatasetConfig
from tasks.download.config import DownloadConfig, RetryConfig
from tasks.download.settings import keep_settings
from tasks.download.text import make_text
from tasks.errors import UserError
from tasks.records import Outcome
from tasks.storage.root import Root
from tasks.workers.machines import NodesConfig, RayConfig


def of_rows(recipe: str | None = None, **described: Any) -> DownloadParams:
    return rows_params("rows.csv", RowsOptions(**({"name": "cc3m/train"} | described)), None, recipe, None)


def changed(params: DownloadParams | None = None, **changes: Any) -> DownloadParams:
    options: dict[str, Any] = {
        "only": None,
        "shards": None,
        "retry": None,
        "force": False,
        "accept_changes": False,
        "workers": None,
        "settings": [],
    }
    return with_download_options(params or of_rows(), **(options | changes))


def test_rows_alone_are_enough() -> None:
    params = of_rows(columns="TEXT,URL", shard_size=7)
    assert params.root_uri == "data"
    (dataset,) = params.datasets
    assert (dataset.name, dataset.shard_size) == ("cc3m", 7)
    assert dataset.rows_config("train") == RowsConfig(rows="rows.csv", caption_column="TEXT", url_column="URL")


def test_pictures_on_disk_are_described_in_full() -> None:
    (dataset,) = of_rows(images="pictures", names="train.txt", select="train, restval", columns="a, b").datasets
    assert dataset.rows_config("train") == RowsConfig(
        rows="rows.csv",
        images="pictures",
        names="train.txt",
        select=("train", "restval"),
        caption_column="a",
        url_column="b",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "demo"}, "--rows excludes --recipe"),
        ({"name": "cc3m"}, "--name 'cc3m' is not DATASET/SPLIT"),
        ({"name": "a b/train"}, "--name 'a b/train' is not DATASET/SPLIT"),
        ({"columns": "TEXT"}, "--columns 'TEXT' is not CAPTION,URL"),
        ({"select": "train,"}, "--select 'train,' is not a list of splits"),
    ],
)
def test_options_that_make_no_sense_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        of_rows(**changes)


def test_form_that_there_is_not_is_named_with_those_there_are() -> None:
    with pytest.raises(ValidationError) as raised:
        of_rows(form="tvs")
    assert validation_text(raised.value).startswith("form: Input should be 'tsv', 'csv', 'parquet', ")


def test_what_describes_rows_is_refused_where_no_rows_are_given() -> None:
    RowsOptions().check_unused()
    with pytest.raises(UserError, match=r"^--images, --url-first, --shard-size can only be given with --rows"):
        RowsOptions(images="pictures", url_first=True, shard_size=7).check_unused()


def test_settings_are_typed_by_their_fields() -> None:
    config = changed(
        settings=["short_side=none", "threads=64", "user_agent=us (us@us.example)", "robots_txt=true"]
    ).download
    assert (config.short_side, config.threads, config.robots_txt) == (None, 64, True)
    assert config.user_agent == "us (us@us.example)"
    assert changed(settings=["user_agent=7"]).download.user_agent == "7"


@pytest.mark.parametrize(
    ("text", "directives"), [("noai, noindex", ("noai", "noindex")), ('["noai"]', ("noai",)), ("", ())]
)
def test_list_of_names_is_written_with_commas(text: str, directives: tuple[str, ...]) -> None:
    assert changed(settings=[f"opt_out_directives={text}"]).download.opt_out_directives == directives


@pytest.mark.parametrize("agent", ["日本", "us\nCookie: x"])
def test_user_agent_that_no_header_can_hold_is_refused(agent: str) -> None:
    with pytest.raises(UserError, match="printable ASCII"):
        changed(settings=[f"user_agent={agent}"])


def test_headers_are_written_as_they_are_sent() -> None:
    config = changed(settings=["accept=none", "accept_language=de,en;q=0.5", 'headers={"Referer": "x"}']).download
    assert (config.accept, config.accept_language, config.headers) == (None, "de,en;q=0.5", {"Referer": "x"})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("accept=image/\u2028", "printable ASCII"),
        ("accept_language=\u65e5", "printable ASCII"),
        ('headers={"A:": "b"}', "'A:' is no header of HTTP"),
        ('headers={"A": "b\\r\\nC: d"}', "'A' is no header of HTTP"),
        ('headers={"user-agent": "b"}', "user-agent has a field of its own: user_agent"),
        ('headers={"Host": "b"}', "Host decides how"),
        ('headers={"Range": "bytes=0-9"}', "Range decides how"),
        ('headers={"If-None-Match": "b"}', "If-None-Match decides how"),
        ('headers={"A": "b", "a": "c"}', "named twice"),
    ],
)
def test_headers_that_cannot_be_sent_are_refused(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        changed(settings=[setting])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("short_side", "--set 'short_side' is not NAME=VALUE, such as download.threads=64"),
        ("=3", "--set '=3' is not NAME=VALUE, such as download"),
        ("side=3", "--set side: there is no setting 'side'; known are threads, .* short_side"),
    ],
)
def test_setting_that_is_none_names_those_there_are(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        changed(settings=[text])


def test_value_that_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match=r"download\.threads: Input should be a valid integer"):
        changed(settings=["threads=many"])


@pytest.mark.parametrize(
    ("text", "chosen"), [("0", {0}), ("2-4", {2, 3, 4}), ("0,3-4", {0, 3, 4}), (None, {0, 1, 2, 3, 4})]
)
def test_shards_are_chosen_by_number_and_range(text: str | None, chosen: set[int]) -> None:
    params = changed(shards=text)
    assert {shard for shard in range(5) if params.selects_shard(shard)} == chosen


@pytest.mark.parametrize("text", ["a", "1-", "-1", "1..3", "", "5-2"])
def test_shards_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="shards"):
        changed(shards=text)


def test_only_names_splits_that_there_are() -> None:
    assert [split for _, split in changed(only=["cc3m/train"]).selected_splits()] == ["train"]
    with pytest.raises(ValidationError, match="no split 'cc3m/val'; known are cc3m/train"):
        changed(only=["cc3m/val"])


def test_failures_are_chosen_by_class_and_age() -> None:
    assert retry_config(False, None, None) is None
    assert retry_config(True, None, None) == RetryConfig()
    assert retry_config(True, "dns, not_found", "12h") == RetryConfig(
        outcomes=(Outcome.DNS, Outcome.NOT_FOUND), older_than_seconds=43_200
    )
    assert Outcome.HOST_DOWN in RetryConfig().outcomes and Outcome.NOT_FOUND not in RetryConfig().outcomes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((False, "dns", None), "add --only-failed"),
        ((False, None, "7d"), "add --only-failed"),
        ((True, "dsn", None), "no outcome 'dsn'; known are ok, "),
        ((True, None, "7 weeks"), "--older-than '7 weeks' is no time"),
    ],
)
def test_choice_that_cannot_be_read_is_named(arguments: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        retry_config(*arguments)


def test_what_is_no_failure_cannot_be_tried_again() -> None:
    with pytest.raises(ValidationError, match="ok is no failure"):
        retry_config(True, "ok", None)


def test_retry_and_force_exclude_each_other() -> None:
    with pytest.raises(UserError, match="--only-failed and --force exclude each other"):
        changed(retry=RetryConfig(), force=True)


def test_settings_of_scoring_that_cannot_be_are_refused() -> None:
    params = recipe("demo", "data").for_evaluate("zero-shot")
    with pytest.raises(UserError, match=r"--set protocol: there is no .* known are batch_size, .*protocols"):
        with_settings(params, ["protocol=all"], "scoring")
    with pytest.raises(UserError, match=r"^scoring\.protocols\.1: String should match pattern"):
        with_settings(params, ["protocols=all,fold:5"], "scoring")


def test_machines_are_named_as_torchrun_names_them() -> None:
    assert nodes_config(1, None, None, 29500) is None and nodes_config(1, 0, "a", 29500) is None
    assert nodes_config(2, 1, "gpu-a", 29500) == NodesConfig(nnodes=2, node_rank=1, master_addr="gpu-a")
    with pytest.raises(UserError, match="--node-rank 1 without --nnodes"):
        nodes_config(1, 1, "a", 29500)
    with pytest.raises(
        UserError, match=r"--nnodes 4 needs --node-rank, which of them this is \(0 to 3\), and --master"
    ):
        nodes_config(4, None, "a", 29500)
    with pytest.raises(ValidationError, match="node_rank=2: 2 nodes are 0 to 1"):
        nodes_config(2, 2, "a", 29500)


@pytest.mark.parametrize(
    ("text", "cluster"),
    [
        (None, None),
        ("auto", RayConfig()),
        ("head:6379", RayConfig(address="head:6379")),
        ('{"address": "local", "gpus_each": 0.5}', RayConfig(address="local", gpus_each=0.5)),
    ],
)
def test_ray_takes_an_address_or_all_settings(text: str | None, cluster: RayConfig | None) -> None:
    assert changed(ray=text).ray == cluster
    extract = ExtractParams(root_uri="data", datasets=of_rows().datasets)
    assert with_extract_options(extract, None, None, None, 16, [], ray=text).ray == cluster


def test_ray_settings_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(UserError, match=r"--ray .* is neither an address nor JSON"):
        changed(ray='{"address": auto}')
    with pytest.raises(ValidationError, match="gpus"):
        changed(ray='{"gpus": 1}')


def test_text_alone_is_enough() -> None:
    params = text_params(["a.txt", "more/*.gz"], RowsOptions(name="wiki/train", shard_size=7), "there", excluded=False)
    text = TextDatasetConfig(name="wiki", splits={"train": ("a.txt", "more/*.gz")}, shard_passages=7)
    assert params == DownloadParams(root_uri="there", texts=(text,))
    assert params.selected_texts() == [(text, "train")] and params.selected_splits() == [] and params.names == "wiki"
    assert changed(params, only=["wiki/train"]).selected_texts() == [(text, "train")]


@pytest.mark.parametrize(
    ("described", "excluded", "message"),
    [
        (RowsOptions(), True, "--text excludes --rows, --recipe and --params"),
        (RowsOptions(images="pictures", url_first=True), False, "--images, --url-first can only be given with --rows"),
        (RowsOptions(name="wiki"), False, "--name 'wiki' is not DATASET/SPLIT"),
    ],
)
def test_options_that_text_has_not_are_named(described: RowsOptions, excluded: bool, message: str) -> None:
    with pytest.raises(UserError, match=message):
        text_params(["a.txt"], described, None, excluded)


@pytest.mark.parametrize("changes", [{"shards": "0-3"}, {"retry": RetryConfig()}])
def test_shards_and_failures_are_of_images(changes: dict[str, Any]) -> None:
    params = text_params(["a.txt"], RowsOptions(), None, excluded=False)
    with pytest.raises(ValidationError, match="only text is selected, which is made as a whole"):
        changed(params, **changes)
    both = DownloadParams(root_uri="data", datasets=of_rows().datasets, texts=params.texts)
    assert changed(both, **changes).selected_texts() == [] and len(changed(both, **changes).selected_splits()) == 1


def test_texts_and_images_have_different_names() -> None:
    text = TextDatasetConfig(name="cc3m", splits={"train": ("a.txt",)})
    with pytest.raises(ValidationError, match="cc3m/train is the name of two splits"):
        DownloadParams(root_uri="data", datasets=of_rows().datasets, texts=(text,))
    with pytest.raises(ValidationError, match="neither datasets nor texts"):
        DownloadParams(root_uri="data")


def test_what_was_begun_goes_on_whether_text_or_images(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    with pytest.raises(UserError, match="nothing was downloaded"):
        begun_params(root.uri, None)
    (tmp_path / "a.txt").write_text("word " * 100)
    text = TextDatasetConfig(name="wiki", splits={"train": (str(tmp_path / "a.txt"),)}, shard_passages=9)
    make_text(root, text, "train")
    assert begun_params(root.uri, None) == DownloadParams(root_uri=root.uri, texts=(text,))
    images = DatasetConfig(name="cc3m", splits={"train": RowsConfig(rows="rows.tsv")}, shard_size=7)
    keep_settings(root, images, "train", DownloadConfig(short_side=99))
    both = begun_params(root.uri, None)
    assert (both.datasets, both.texts, both.download.short_side) == ((images,), (text,), 99)
    assert begun_params(root.uri, ["cc3m/train"]).texts == ()
    assert begun_params(root.uri, ["wiki/train"]) == DownloadParams(root_uri=root.uri, texts=(text,))
    with pytest.raises(UserError, match="there is no split 'wiki/val'"):
        begun_params(root.uri, ["wiki/train", "wiki/val"])
