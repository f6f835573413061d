import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry as loaded_drivers

from feature_extraction.samples.manifest import parse_manifest
from feature_extraction.samples.tars import ShardError
from model.config import FeatureSource, LoaderConfig
from model.data import shard_cache
from model.data.captions import load_captions
from model.data.feed import prefetch
from model.data.shard_cache import ShardCache
from model.data.store import FeatureStore, open_store
from model.data.tokenizer import load_tokens, load_vocabulary
from model.errors import InputError
from model.objectives.batches import PretrainBatches
from model.objectives.config import PretrainConfig
from model.publish import Lock
from tests.toy import WORDS, make_sample, write_feature_set

SHARDS = 70


class CountingStore(LocalFileSystem):
    """A remote store, played by a folder, that notes what was asked of it."""

    cachable = False

    def __init__(self, log: Path, seconds: float = 0.0) -> None:
        super().__init__()
        self.log, self.seconds = log, seconds

    def cat_file(self, path, start=None, end=None, **kwargs):
        with self.log.open("a") as stream:
            stream.write(f"{Path(path).name}\n")
        content = super().cat_file(path, start=start, end=end, **kwargs)
        time.sleep(self.seconds)
        return content

    def fetched(self) -> Counter[str]:
        return Counter(self.log.read_text().split()) if self.log.exists() else Counter()


@pytest.fixture
def remote(tmp_path):
    """Shards of one image each; image n shows label n % 8 alone."""
    samples = [make_sample(f"{number:09d}", [number % 8], 16, number) for number in range(SHARDS)]
    write_feature_set(tmp_path / "remote", samples, 1, 3, 16)
    return tmp_path / "remote"


def entries_of(remote):
    return parse_manifest((remote / "manifest.json").read_bytes(), "manifest").shards


def open_cache(remote, folder, fs=None, shards_kept=32, threads=4):
    entries = entries_of(remote)
    limit = shards_kept * entries[0].bytes
    return ShardCache(fs or CountingStore(folder / "log.txt"), str(remote), entries, folder, limit, threads)


def content(file):
    return os.pread(file.descriptor, 1 << 20, 0)


def kept(folder):
    return {path.name.split(".")[0] for path in folder.glob("*.tar")}


def used(folder):
    """Bytes that the folder holds, looked at when nobody moves anything in it."""
    with Lock(folder / "room.lock") as room:
        room.hold()
        return sum(path.stat().st_size for pattern in ("*.tar", "*.part") for path in folder.glob(pattern))


def settle(cache, shards):
    for shard in shards:
        cache.open(shard)


def test_a_shard_is_fetched_once_and_read_as_it_was(remote, tmp_path):
    fs = CountingStore(tmp_path / "log.txt")
    cache = open_cache(remote, tmp_path / "cache", fs)
    with ThreadPoolExecutor(8) as pool:
        files = list(pool.map(cache.open, [3, 3, 4, 3, 4, 3, 3, 4]))
    whole = {shard: (remote / f"regions-{shard:05d}.tar").read_bytes() for shard in (3, 4)}
    assert [content(file) for file in files] == [whole[shard] for shard in (3, 3, 4, 3, 4, 3, 3, 4)]
    assert fs.fetched() == {"regions-00003.tar": 1, "regions-00004.tar": 1}
    assert cache.fetched_bytes == sum(map(len, whole.values()))
    # A later run finds it.
    open_cache(remote, tmp_path / "cache", fs).open(3)
    assert fs.fetched()["regions-00003.tar"] == 1


def test_the_folder_stays_below_its_limit_and_keeps_what_is_needed(remote, tmp_path):
    folder = tmp_path / "cache"
    cache = open_cache(remote, folder, CountingStore(tmp_path / "log.txt"))
    most = 0
    for window in range(4):
        needed = list(range(16 * window, min(16 * window + 32, SHARDS)))
        cache.expect(needed)
        for shard in needed:
            cache.open(shard)
            most = max(most, used(folder))
            assert kept(folder) >= {f"regions-{old:05d}" for old in needed[: needed.index(shard)]}
    assert most <= 32 * entries_of(remote)[0].bytes
    assert max(Counter((tmp_path / "log.txt").read_text().split()).values()) == 1


def test_the_least_recently_needed_goes_first(remote, tmp_path):
    folder = tmp_path / "cache"
    cache = open_cache(remote, folder, CountingStore(tmp_path / "log.txt"))
    for shard in range(32):
        cache.open(shard)
        os.utime(next(folder.glob(f"regions-{shard:05d}.*.tar")), (shard, shard))
    cache.open(0)
    cache.open(40)
    cache.open(41)
    assert {f"regions-{shard:05d}" for shard in (0, 40, 41)} < kept(folder)
    assert kept(folder) & {"regions-00001", "regions-00002"} == set()
    assert len(kept(folder)) == 32


def test_a_limit_below_two_windows_is_refused(remote, tmp_path):
    with pytest.raises(InputError, match=r"cache_bytes=\d+ is too little.*two windows of 16 shards take \d+ bytes"):
        open_cache(remote, tmp_path / "cache", shards_kept=31)
    folder = tmp_path / "few"
    write_feature_set(folder, [make_sample("a", [0], 16, 0)], 1, 3, 16)
    open_cache(folder, tmp_path / "cache", shards_kept=1)


def test_a_shard_of_another_content_is_refused_and_not_kept(remote, tmp_path):
    shard = remote / "regions-00005.tar"
    whole = shard.read_bytes()
    cache = open_cache(remote, tmp_path / "cache", CountingStore(tmp_path / "log.txt"))
    shard.write_bytes(bytes(len(whole)))
    with pytest.raises(ShardError, match=r"regions-00005\.tar has not the sha256 of the manifest"):
        cache.open(5)
    shard.write_bytes(whole[:-1])
    with pytest.raises(ShardError, match=r"regions-00005\.tar is shorter than the \d+ bytes"):
        cache.open(5)
    shard.unlink()
    with pytest.raises(ShardError, match=r"regions-00005\.tar is missing"):
        cache.open(5)
    shard.write_bytes(whole)
    assert content(cache.open(5)) == whole


def test_a_cut_file_in_the_cache_is_fetched_again(remote, tmp_path):
    folder = tmp_path / "cache"
    open_cache(remote, folder, CountingStore(tmp_path / "log.txt")).open(2)
    path = next(folder.glob("regions-00002.*.tar"))
    os.truncate(path, 100)
    file = open_cache(remote, folder, CountingStore(tmp_path / "log.txt")).open(2)
    assert content(file) == (remote / "regions-00002.tar").read_bytes()


def test_an_outage_is_tried_again_and_then_named(remote, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_cache, "_FIRST_WAIT_SECONDS", 0.01)

    class Shaky(CountingStore):
        failures = 3

        def cat_file(self, path, start=None, end=None, **kwargs):
            if self.failures > 0:
                self.failures -= 1
                raise ConnectionResetError("the store hung up")
            return super().cat_file(path, start=start, end=end, **kwargs)

    shaky = Shaky(tmp_path / "log.txt")
    assert content(open_cache(remote, tmp_path / "cache", shaky).open(1))
    shaky.failures = 4
    with pytest.raises(InputError, match=r"regions-00002\.tar cannot be fetched \(the store hung up\)"):
        open_cache(remote, tmp_path / "cache", shaky).open(2)


def test_a_reader_that_finds_no_room_says_so(remote, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_cache, "_ROOM_WAIT_SECONDS", 0.3)
    first = open_cache(remote, tmp_path / "cache", CountingStore(tmp_path / "log.txt"))
    first.expect(range(32))
    settle(first, range(32))
    second = open_cache(remote, tmp_path / "cache", CountingStore(tmp_path / "log.txt"))
    with pytest.raises(InputError, match=r"full of shards that are needed now.*cache_bytes="):
        second.open(50)
    first.expect(range(16, 48))
    second.open(50)


def test_what_is_fetched_ahead_waits_for_room_and_stops_when_no_longer_wanted(remote, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_cache, "_ROOM_WAIT_SECONDS", 0.3)
    folder = tmp_path / "cache"
    behind = open_cache(remote, folder, CountingStore(tmp_path / "log.txt"))
    behind.expect(range(32))
    settle(behind, range(32))
    ahead = open_cache(remote, folder, CountingStore(tmp_path / "log.txt"))
    ahead.expect(range(16, 48))
    settle(ahead, range(16, 32))
    time.sleep(0.6)
    assert "regions-00032" not in kept(folder)
    behind.expect(range(16, 48))
    settle(ahead, range(32, 48))
    # Closing does not wait for what never found room.
    ahead.expect(range(16, 64))
    ahead.close()


def own_processes():
    """Processes that inherit nothing from this one, which by now holds servers and threads of other tests."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _fetch_all(remote, folder, log, seconds):
    cache = open_cache(remote, folder, CountingStore(log, seconds))
    cache.expect(range(32))
    for shard in range(32):
        assert content(cache.open(shard)) == (remote / f"regions-{shard:05d}.tar").read_bytes()
    cache.close()


@pytest.mark.slow("processes that import torch")
def test_processes_of_one_machine_fetch_each_shard_once(remote, tmp_path):
    context = own_processes()
    arguments = (remote, tmp_path / "cache", tmp_path / "log.txt", 0.01)
    ranks = [context.Process(target=_fetch_all, args=arguments) for _ in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0, 0, 0]
    assert set(Counter((tmp_path / "log.txt").read_text().split()).values()) == {1}


@pytest.mark.slow("processes that import torch")
def test_kill_9_leaves_no_torn_shard_and_what_was_whole_is_kept(remote, tmp_path):
    context = own_processes()
    folder, log = tmp_path / "cache", tmp_path / "log.txt"
    killed = context.Process(target=_fetch_all, args=(remote, folder, log, 0.05))
    killed.start()
    deadline = time.monotonic() + 30
    while len(list(folder.glob("*.tar"))) < 6 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    whole = kept(folder)
    assert 6 <= len(whole) < 32
    for path in folder.glob("*.tar"):
        assert path.read_bytes() == (remote / (path.name.split(".")[0] + ".tar")).read_bytes()
    # The parts that it left hold the room of no one.
    before = CountingStore(log).fetched()
    _fetch_all(remote, folder, log, 0.0)
    again = CountingStore(log).fetched() - before
    assert {name.removesuffix(".tar") for name in again}.isdisjoint(whole)
    assert not list(folder.glob("*.part"))


@pytest.fixture
def in_memory(tmp_path):
    """A split on an object store: 70 shards of two images, a caption each; and the same on disk."""
    labels = [[number % 8, (number + 3) % 8] for number in range(140)]
    samples = [make_sample(f"{number:09d}", row, 16, number) for number, row in enumerate(labels)]
    write_feature_set(tmp_path / "local", samples, 2, 3, 16)
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "caption_id": [f"c{number}" for number in range(140)],
            "image_key": [sample.key for sample in samples],
            "text": [" ".join(WORDS[label] for label in row) for row in labels],
            "split": ["train"] * 140,
        }
    )
    pq.write_table(table, tmp_path / "local" / "captions.parquet")
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    fs = fsspec.filesystem("memory")
    fs.put(str(tmp_path / "local"), "/features", recursive=True)
    yield tmp_path
    fs.rm("/features", recursive=True)


def batches_of(tmp_path, where, cache, **loader):
    source = FeatureSource(
        features_path=where,
        captions_path=f"{where}/captions.parquet",
        name="toy/train",
        cache_path=cache,
        loader=LoaderConfig(**loader),
    )
    store, vocabulary = open_store(source), load_vocabulary(tmp_path / "vocab.txt")
    captions = load_captions(source, store)
    tokens = load_tokens(vocabulary, captions, 8)
    return store, PretrainBatches(store, captions, tokens, vocabulary, 3, PretrainConfig(batch_size=14))


@pytest.mark.slow("trains against a server of object storage")
def test_training_reads_an_object_store_as_it_reads_a_disk(in_memory):
    shard_bytes = entries_of(in_memory / "local")[0].bytes
    cache = in_memory / "cache"
    _, local = batches_of(in_memory, str(in_memory / "local"), None)
    store, remote = batches_of(in_memory, "memory://features", str(cache), cache_bytes=32 * shard_bytes)
    most = 0
    for ours, theirs in zip(prefetch(remote, 0, 20), prefetch(local, 0, 20), strict=True):
        most = max(most, used(cache))
        assert torch.equal(ours.words.ids, theirs.words.ids)
        assert torch.equal(ours.regions.features, theirs.regions.features)
    assert most <= 32 * shard_bytes
    assert store.fetch_wait_seconds > 0
    store.close()


def test_a_bad_shard_of_an_object_store_stops_or_is_left_out(in_memory):
    shard_bytes = entries_of(in_memory / "local")[0].bytes
    fsspec.filesystem("memory").pipe("/features/regions-00007.tar", bytes(shard_bytes))
    cache = in_memory / "cache"
    FeatureStore(str(in_memory / "local"), cache).close()
    store, stops = batches_of(in_memory, "memory://features", str(cache))
    with pytest.raises(ShardError, match=r"regions-00007\.tar has not the sha256 of the manifest"):
        list(prefetch(stops, 0, 10))
    store.close()
    store, skips = batches_of(in_memory, "memory://features", str(cache), on_bad_shard="skip")
    assert [len(batch.regions.mask) for batch in prefetch(skips, 0, 10)] == [14] * 10
    assert store.skipped_samples == 2
    store.close()


def test_an_object_store_needs_a_cache_folder(in_memory):
    with pytest.raises(InputError, match=r"memory://features is on an object store; set cache_path"):
        FeatureStore("memory://features")


def test_an_unfinished_feature_set_of_an_object_store_is_refused(tmp_path):
    with pytest.raises(ShardError, match="not finished"):
        FeatureStore("memory://nothing-here", tmp_path)


def test_a_missing_driver_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(loaded_drivers, "s3", raising=False)  # Another test may have loaded it.
    with pytest.raises(InputError, match=r"s3://bucket/x cannot be opened.*run `pip install s3fs`"):
        FeatureStore("s3://bucket/x", tmp_path)


def test_an_unknown_protocol_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nonsense://x cannot be opened"):
        FeatureStore("nonsense://x", tmp_path)


def test_rows_of_one_shard_are_told_by_their_place(remote, tmp_path):
    store = FeatureStore(str(remote), tmp_path / "cache")
    assert store.read(np.arange(SHARDS), 3).labels[:, 0].tolist() == [number % 8 for number in range(SHARDS)]


def test_a_program_that_ends_on_an_error_does_not_wait_for_what_it_expected(remote, tmp_path):
    script = f"""
import time
from pathlib import Path
from fsspec.implementations.local import LocalFileSystem
from feature_extraction.samples.manifest import parse_manifest
from model.data.shard_cache import ShardCache

class Slow(LocalFileSystem):
    def cat_file(self, *arguments, **options):
        time.sleep(20)

entries = parse_manifest(Path({str(remote)!r}, "manifest.json").read_bytes(), "manifest").shards
cache = ShardCache(Slow(), {str(remote)!r}, entries, Path({str(tmp_path / "cache")!r}), 10**9, 2)
cache.expect(range(32))
raise SystemExit(7)
"""
    begun = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[4], timeout=15)
    assert ended.returncode == 7
    assert time.monotonic() - begun < 15


def test_a_login_in_a_uri_is_refused_and_not_repeated(tmp_path):
    with pytest.raises(InputError, match="holds a user name or password") as caught:
        FeatureStore("s3://KEY:secret@bucket/x", tmp_path)
    assert "secret" not in str(caught.value)


def test_errors_of_a_drivers_own_kind_are_tried_again_and_named(remote, tmp_path, monkeypatch):
    class RefusedError(Exception):
        """As botocore's are: no OSError."""

    class Closed(CountingStore):
        def cat_file(self, path, **kwargs):
            super().cat_file(path, **kwargs)
            raise RefusedError("could not connect")

    monkeypatch.setattr(shard_cache, "_FIRST_WAIT_SECONDS", 0.001)
    closed = Closed(tmp_path / "log.txt")
    with pytest.raises(InputError, match=r"regions-00003\.tar cannot be fetched \(could not connect\)"):
        open_cache(remote, tmp_path / "cache", closed).open(3)
    assert (tmp_path / "log.txt").read_text().splitlines() == ["regions-00003.tar"] * 4
