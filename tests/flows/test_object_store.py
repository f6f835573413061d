"""Download and extraction with a root on a real S3 server: the same shards as on a disk, kills and outages survived."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import tasks.world
from feature_extraction.config import ExtractorConfig
from flows.commands.app import app
from model.config import FeatureSource
from model.data import shard_cache
from model.data.captions import load_captions
from model.data.store import FeatureStore, open_store
from model.errors import InputError
from tasks.extract.feature_manifest import write_feature_manifest
from tasks.extract.shard import extract_shard
from tasks.records import ShardRef
from tasks.storage.root import Root
from tests.faults import serving
from tests.s3_server import Bucket

REPOSITORY = Path(__file__).parents[2]
SPLIT = "datasets/web/train"
DOWNLOAD = ("allow_private_addresses=true", "min_side=8", "backoff_seconds=0.01", "threads=4", "env_proxies=false")
EXTRACT = {
    "backend": "torchvision",
    "model": "small",
    "weights": str(Path(tasks.world.__file__).with_name("detector.safetensors")),
    "max_regions": 6,
    "num_proposals": 32,
    "device": "cpu",
}


@pytest.fixture
def web() -> Iterator[Any]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def journals_of_this_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a root that is no folder lie in the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


@pytest.fixture
def rows(web: Any, tmp_path: Path) -> Path:
    """Eight rows, two shards: one row of the first is lost for good."""
    paths = ["ok", "404", "ok", "ok", "ok", "ok", "ok", "ok"]
    path = tmp_path / "rows.tsv"
    path.write_text("".join(f"caption {number}\t{web.url}/{kind}/{number}\n" for number, kind in enumerate(paths)))
    return path


def options(settings: Iterable[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def download_arguments(rows: Path, root: str) -> list[str]:
    named = ["--rows", str(rows), "--name", "web/train", "--shard-size", "4", "--workers", "1"]
    return ["download", *named, "--root", root, *options(DOWNLOAD)]


def run(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


def refused(*arguments: str, code: int) -> str:
    """The last line on stderr; there is no traceback."""
    done = run(*arguments, code=code)
    assert done.stdout == "" and "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def extract_here(local: Path) -> None:
    config = ExtractorConfig.model_validate(EXTRACT)
    for shard in range(2):
        extract_shard(Root(str(local)), ShardRef(dataset="web", split="train", shard=shard), config)
    write_feature_manifest(Root(str(local)), "web", "train", config)


def what_counts(content: bytes) -> dict[str, Any]:
    """A receipt without what the clock says: when, and for how long. The table of outcomes holds such times, too."""
    fields: dict[str, Any] = json.loads(content)
    files = {name: digest for name, digest in fields["files"].items() if not name.startswith("outcomes")}
    return {name: value for name, value in fields.items() if name not in ("seconds", "created_at")} | {"files": files}


def test_shards_and_receipts_are_those_of_a_local_root(
    bucket: Bucket, rows: Path, web: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, remote = tmp_path / "local", f"{bucket.uri}/a/root"
    for root in (str(local), remote):
        run(*download_arguments(rows, root))
    extract_here(local)
    run("extract", "--root", remote, "--workers", "1", *options(f"{name}={value}" for name, value in EXTRACT.items()))

    prefix = "a/root/"
    here = sorted(path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file())
    assert [path.removeprefix(prefix) for path in bucket.paths()] == here
    compared = 0
    for path in here:
        ours, theirs = (local / path).read_bytes(), bucket.get(prefix + path)
        if path.endswith((".tar", "manifest.parquet", "captions.parquet")) or path.startswith("features/"):
            compared += 1
            if path.endswith("/made-from.json"):  # The captions' fingerprint is of the outcomes, too.
                assert json.loads(ours)["images"] == json.loads(theirs)["images"], path
            elif "/regions-" in path and path.endswith(".json"):
                assert what_counts(ours) == what_counts(theirs), path
            else:
                assert ours == theirs, path
        elif "/images/images-" in path:
            compared += 1
            assert what_counts(ours) == what_counts(theirs), path
    # Two shards of each kind, their receipts, two tables, the features' manifest and record, and what they are of.
    assert compared == 13

    # The other commands find it there.
    status = json.loads(run("status", "--root", remote, "--json").stdout)
    assert status["splits"][0]["download_done"] and status["splits"][0]["outcomes"] == {"not_found": 1, "ok": 7}
    assert "read through): whole" in run("verify", "--root", remote, "--dataset", "web/train", "--deep").stdout
    page = tmp_path / "look.html"
    run("inspect", "--root", remote, "--of", "web/train", "--out", str(page))
    assert page.stat().st_size > 10_000
    assert b"not_found" in bucket.get(f"{prefix}download.html")

    # And nothing is done twice: neither is a picture asked for, nor anything written but the probe.
    asked = sum(web.requests.values())
    bucket.server.requests.clear()
    run(*download_arguments(rows, remote))
    run("extract", "--root", remote, "--workers", "1", *options(f"{name}={value}" for name, value in EXTRACT.items()))
    assert sum(web.requests.values()) == asked
    written = {
        request for request in bucket.server.requests if request.startswith("PUT") and ".writable" not in request
    }
    assert {name.rpartition("/")[2] for name in written} <= {"manifest.json"}

    # Training reads the features from there.
    features = next(path.rpartition("/")[0] for path in here if path.endswith("regions-00000.tar"))
    check_training_reads(bucket, features, local, tmp_path / "cache", monkeypatch)


def check_training_reads(bucket: Bucket, path: str, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features and captions by URI, as `python -m model.pretrain` takes them, against those on the disk."""
    monkeypatch.setattr(shard_cache, "_FIRST_WAIT_SECONDS", 0.01)
    read = []
    for base in (str(root), f"{bucket.uri}/a/root"):
        source = FeatureSource(
            features_path=f"{base}/{path}",
            captions_path=f"{base}/{SPLIT}/captions.parquet",
            name="web/train",
            cache_path=str(cache / base.replace("/", "_")),
        )
        store = open_store(source)
        captions = load_captions(source, store)
        read.append((list(store.keys), list(captions.texts), store.read(range(len(store)), 6)))
        store.close()
    (keys, texts, regions), (their_keys, their_texts, their_regions) = read
    assert (keys, texts) == (their_keys, their_texts) and len(keys) == 7 and texts[0] == "caption 0"
    for name, value in regions.given().items():
        assert torch.equal(value, getattr(their_regions, name)), name

    store = FeatureStore(f"{bucket.uri}/a/root/{path}", cache / "another")
    bucket.server.stop()
    try:
        with pytest.raises(
            InputError, match=r"regions-00000\.tar cannot be fetched \(Could not connect .* start again"
        ):
            store.read([0], 6)
        with pytest.raises(InputError, match=r"manifest\.json cannot be fetched"):
            FeatureStore(store.folder, cache / "another")
    finally:
        bucket.server.start()
        store.close()


@pytest.mark.skipif(not Path("/proc").exists(), reason="workers that outlive their parent are killed by Linux alone")
def test_a_killed_download_goes_on_without_asking_again(bucket: Bucket, rows: Path, web: Any) -> None:
    remote = f"{bucket.uri}/root"

    def kill(request: str) -> None:
        """In the middle of publishing the first shard: its tar is on the way."""
        if request.startswith("PUT") and request.endswith("images-00000.tar"):
            process.send_signal(signal.SIGKILL)
            process.wait()
            raise ConnectionError

    bucket.server.on_request = kill
    process = subprocess.Popen(
        [sys.executable, "-m", "flows", *download_arguments(rows, remote)],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        env=os.environ,
    )
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    bucket.server.on_request = lambda request: None
    assert not [path for path in bucket.paths() if path.endswith((".tar", "images-00000.json"))]
    asked = dict(web.requests)
    assert asked["/ok/0"] == 1

    run(*download_arguments(rows, remote))
    assert all(web.requests[path] == 1 for path in asked)
    assert [path.rpartition("/")[2] for path in bucket.paths() if path.endswith(".tar")] == [
        "images-00000.tar",
        "images-00001.tar",
    ]


def test_an_outage_in_the_middle_of_a_shard_is_one_sentence_and_the_same_command_goes_on(
    bucket: Bucket, rows: Path, web: Any
) -> None:
    remote = f"{bucket.uri}/root"

    def stop(request: str) -> None:
        if request.startswith("PUT") and request.endswith("images-00001.tar"):
            bucket.server.stop()
            raise ConnectionError

    bucket.server.on_request = stop
    try:
        said = refused(*download_arguments(rows, remote), code=1)
    finally:
        bucket.server.on_request = lambda request: None
        bucket.server.stop()
        bucket.server.start()
    assert said.startswith(f"root {remote}: the store does not answer") and "run the same command again" in said
    assert [path.rpartition("/")[2] for path in bucket.paths() if path.endswith(".tar")] == ["images-00000.tar"]
    asked = dict(web.requests)

    run(*download_arguments(rows, remote))
    assert web.requests == asked
    assert f"root/{SPLIT}/images/images-00001.json" in bucket.paths()


def test_a_wrong_bucket_is_bad_input_to_every_command(bucket: Bucket, rows: Path) -> None:
    wrong = f"{bucket.uri}-mistyped/root"
    for arguments in (
        download_arguments(rows, wrong),
        ["extract", "--root", wrong],
        ["status", "--root", wrong],
        ["verify", "--root", wrong],
        ["inspect", "--root", wrong, "--of", "web/train"],
        ["pretrain", "--recipe", "demo", "--root", wrong],
        ["evaluate", "--run", "pretrain", "--on", "web/test", "--root", wrong],
        ["search", "a red circle", "--root", wrong],
        ["history", "--root", wrong],
        ["rebuild", "--recipe", "demo", "--root", wrong],
    ):
        assert f"there is no bucket '{bucket.name}-mistyped'" in refused(*arguments, code=2)


def test_wrong_credentials_are_bad_input(bucket: Bucket, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another-key")
    root = ["--root", f"{bucket.uri}/root"]
    for arguments in (
        download_arguments(rows, root[1]),
        ["status", *root],
        ["rebuild", "--recipe", "demo", *root],
        ["evaluate", "--run", "pretrain", "--on", "web/test", *root],
    ):
        assert "refuses the credentials" in refused(*arguments, code=2)
