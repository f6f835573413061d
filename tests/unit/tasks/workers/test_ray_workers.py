"""Shards worked on by a Ray cluster of two simulated machines: nothing differs but where."""

from __future__ import annotations

import os
import pickle
import platform
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tasks.world
from feature_extraction.config import ExtractorConfig
from tasks.config import DatasetConfig
from tasks.download.pool import DownloadPool
from tasks.download.shard import NOTHING_AGAIN
from tasks.download.web.network import NetworkGoneError
from tasks.errors import StageError, UserError
from tasks.extract.pool import ExtractorPool
from tasks.extract.shard import extract_shard
from tasks.records import Receipt, ShardRef
from tasks.rows.manifest import list_shards, make_manifest
from tasks.storage.root import Root
from tasks.workers.events import Event, ShardEvent
from tasks.workers.machines import RayConfig
from tasks.workers.processes import Seat
from tasks.workers.ray_actor import ShardActor
from tasks.workers.reporting_pool import RAY_SETTINGS, ReportingPool
from tests import ray_work
from tests.faults import CONFIG, picture
from tests.processes import is_running, wait_until_ended

pytestmark = pytest.mark.slow("a Ray cluster")

REPOSITORY = Path(tasks.world.__file__).parents[2]
EXTRACTOR = ExtractorConfig(
    backend="torchvision",
    model="small",
    weights=str(Path(tasks.world.__file__).with_name("detector.safetensors")),
    max_regions=6,
    num_proposals=32,
    device="cpu",
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two machines that are this one: the first is said to have one GPU, the second two."""
    settings = {**RAY_SETTINGS, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(REPOSITORY)}
    before = {name: os.environ.get(name) for name in settings}
    os.environ |= settings
    made = _start_cluster()
    yield made
    made.shutdown()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def _start_cluster() -> Any:
    """Ray gives its agents 15 seconds to begin. On a machine that is too busy for that, another try may do."""
    from ray.cluster_utils import Cluster

    machine = {"num_cpus": 3, "object_store_memory": 80_000_000, "include_log_monitor": False}
    head = {**machine, "num_gpus": 1, "include_dashboard": False, "no_monitor": True}
    for attempt in range(3):
        made = Cluster()
        try:
            made.add_node(**head)
            made.add_node(num_gpus=2, **machine)
        except Exception:
            made.shutdown()
            if attempt == 2:
                raise
        else:
            return made
    raise AssertionError


@pytest.fixture(scope="module")
def ray_config(cluster: Any) -> Iterator[RayConfig]:
    """This process has joined the cluster, so that not every pool has to."""
    import ray

    ray.init(cluster.address, log_to_driver=False)
    yield RayConfig(address=cluster.address, cpus_each=1, shared_disk=True, wait_seconds=5)
    ray.shutdown()


def pool(ray_config: RayConfig, workers: int, heard: Callable[[Event], None] = str, gpus: float = 0) -> ReportingPool:
    return ReportingPool(workers, heard, ray_work.start, ray=ray_config, num_gpus=gpus)


def ref(shard: int) -> ShardRef:
    return ShardRef(dataset="tiny", split="train", shard=shard)


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetConfig:
    """Twelve pictures on disk, in shards of three."""
    (tmp_path / "pictures").mkdir()
    for number in range(12):
        size = (60 + number, 50)
        (tmp_path / f"pictures/{number}.jpg").write_bytes(picture("red" if number % 2 else "teal", size))
    (tmp_path / "rows.tsv").write_text("".join(f"caption\t{number}.jpg\n" for number in range(12)))
    split = {"rows": str(tmp_path / "rows.tsv"), "images": str(tmp_path / "pictures")}
    return DatasetConfig.model_validate({"name": "tiny", "splits": {"train": split}, "shard_size": 3})


def test_images_and_regions_are_those_that_this_machine_makes(
    tmp_path: Path, dataset: DatasetConfig, ray_config: RayConfig
) -> None:
    receipts: dict[str, list[dict[str, Any]]] = {}
    for kind in ("processes", "cluster"):
        ray, events = (ray_config if kind == "cluster" else None), list[Event]()
        root = Root(str(tmp_path / kind))
        make_manifest(root, dataset, "train")
        refs = list_shards(root, dataset, "train")
        with DownloadPool(1, CONFIG, events.append, ray) as downloads:
            futures = [downloads.download(root.uri, dataset, one, NOTHING_AGAIN) for one in refs]
            results = [future.result(120) for future in futures]
        ends = [event for event in events if isinstance(event, ShardEvent) and event.kind == "ended"]
        assert Counter(event.ref.shard for event in ends) == Counter(range(4))
        assert all(event.ended == {"ok": 3} for event in ends)
        if ray is None:
            results += [extract_shard(root, one, EXTRACTOR) for one in refs]
        else:
            results += _extract(root, refs, ray)
        receipts[kind] = [_what_counts(result.receipt) for result in results]
    assert receipts["cluster"] == receipts["processes"]
    assert all(receipt["files"] for receipt in receipts["cluster"])


def _extract(root: Root, refs: list[ShardRef], ray: RayConfig) -> list[Any]:
    with ExtractorPool(1, str, ray, EXTRACTOR.device) as extractions:
        results, detectors = [], set()
        for one in refs:
            results.append(extractions.extract(root.uri, one, EXTRACTOR).result(120))
            detectors.add(extractions.submit(ray_work.detector).result(60))
    assert len(detectors) == 1, "one worker, and its detector was loaded once"
    return results


def _what_counts(receipt: Receipt) -> dict[str, Any]:
    """Without what the clock says; the table of outcomes holds such times, too."""
    fields = receipt.model_dump(exclude={"seconds", "created_at"})
    return fields | {"files": {name: one for name, one in fields["files"].items() if not name.startswith("outcomes")}}


def test_workers_are_spread_and_each_has_a_gpu_of_its_own(ray_config: RayConfig) -> None:
    with pool(ray_config, 3, gpus=1) as workers:
        places: set[ray_work.Place] = set()
        for _ in range(60):  # They start one after the other.
            places |= {future.result(60) for future in [workers.submit(ray_work.place, 0.5) for _ in range(3)]}
            if len(places) == 3:
                break
        places |= {future.result(60) for future in [workers.submit(ray_work.place) for _ in range(9)]}
    assert len(places) == 3, "workers stay"
    assert len({(place.node, place.gpus) for place in places}) == 3
    assert len({place.node for place in places}) == 2
    assert {place.gpus for place in places} == {"0", "1"}
    assert {place.num_cores for place in places} == {1}


def test_a_cluster_without_room_says_what_it_has(ray_config: RayConfig) -> None:
    impatient = ray_config.model_copy(update={"wait_seconds": 1})
    with pool(impatient, 4, gpus=1) as workers:
        for _ in range(2):
            begun = time.monotonic()
            with pytest.raises(UserError, match="no room for 4 workers of 1 GPU and 1 CPU each: it has 3 GPUs and 6 "):
                workers.submit(ray_work.place)
    assert time.monotonic() - begun < 0.4, "it does not wait twice"


def test_a_cluster_that_is_not_there_is_not_waited_for(ray_config: RayConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # This process has joined one already.
    absent = RayConfig(address="127.0.0.1:1")
    said = r"'127.0.0.1:1' cannot be joined \(.*refused\); .*ray start"
    with ReportingPool(1, str, ray_work.start, ray=absent) as workers, pytest.raises(UserError, match=said):
        workers.submit(ray_work.place)


def test_every_event_arrives_in_order_and_errors_as_what_they_are(ray_config: RayConfig) -> None:
    events: list[Event] = []
    with pool(ray_config, 1, events.append) as workers:
        assert workers.submit(ray_work.place).result(60).gpus == "", "without a share of a GPU it sees none"
        workers.submit(ray_work.tell, 500).result(60)
        for error in (UserError("bad input"), NetworkGoneError("gone"), FileNotFoundError(2, "No such file", "x")):
            found = workers.submit(ray_work.fail, error).exception(60)
            assert type(found) is type(error) and str(found) == str(error)
            assert found is not None and "in fail\n" in "".join(found.__notes__), "where it was raised"
        with pytest.raises(RuntimeError, match="UnreadableError: no luck"):
            workers.submit(ray_work.fail_unreadably).result(60)
    assert events == [f"event {number}" for number in range(500)]


def test_a_worker_that_is_killed_costs_its_time_and_a_shard_that_kills_every_worker_fails_alone(
    tmp_path: Path, ray_config: RayConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    once, always, events = tmp_path / "once", tmp_path / "always", list[Event]()
    once.touch()
    always.touch()
    with pool(ray_config, 2, events.append) as workers:
        killed = workers.submit(ray_work.shard, ref(0), str(once), 1)
        killing = workers.submit(ray_work.shard, ref(1), str(always), 99)
        others = [workers.submit(ray_work.shard, ref(number)) for number in range(2, 6)]
        places = [future.result(120) for future in (killed, *others)]
        with pytest.raises(StageError, match=r"3 workers died at it, the last on .*memory ran short"):
            killing.result(120)
    assert (len(once.read_text()), len(always.read_text())) == (1, 3)
    told = [event for event in events if isinstance(event, str)]
    assert len(told) == 3 and all("its process was killed); another takes it over" in text for text in told)
    ends = Counter(event.ref.shard for event in events if isinstance(event, ShardEvent) and event.kind == "ended")
    assert ends == Counter([0, 2, 3, 4, 5])
    assert capfd.readouterr().out == "", "results go to stdout, and nothing of Ray's"
    wait_until_ended([place.pid for place in places])


def test_an_interrupt_waits_for_nothing_and_leaves_nobody(ray_config: RayConfig) -> None:
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), pool(ray_config, 1) as workers:
        pid = workers.submit(ray_work.place).result(60).pid
        sleeping = [workers.submit(ray_work.place, 300.0) for _ in range(4)]
        raise KeyboardInterrupt
    assert time.monotonic() - begun < 60
    assert all(future.cancelled() or future.exception(1) for future in sleeping)
    wait_until_ended([pid])


@pytest.mark.skipif(sys.platform != "linux", reason="what outlives its parent is killed by Linux alone")
def test_workers_die_with_a_driver_that_is_killed(ray_config: RayConfig) -> None:
    program = f"""
        import os, signal
        from tasks.workers.machines import RayConfig
        from tasks.workers.reporting_pool import RAY_SETTINGS, ReportingPool
        from tests import ray_work

        heard = []
        signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
        config = RayConfig.model_validate_json('''{ray_config.model_dump_json()}''')
        with ReportingPool(2, str, ray_work.start, ray=config) as pool:
            places = [future.result() for future in [pool.submit(ray_work.place, 1.0) for _ in range(2)]]
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard, "signals still go to who had them before"
            print(*[place.pid for place in places], flush=True)
            pool.submit(ray_work.place, 300.0).result()
    """
    driver = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None
        workers = [int(pid) for pid in driver.stdout.readline().split()]
        assert len(set(workers)) == 2 and all(map(is_running, workers))
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    wait_until_ended(workers)


def test_a_local_path_is_refused_on_several_machines_that_do_not_share_it(
    tmp_path: Path, dataset: DatasetConfig, ray_config: RayConfig
) -> None:
    apart = ray_config.model_copy(update={"shared_disk": False})
    root = Root(str(tmp_path / "root"))
    make_manifest(root, dataset, "train")
    with DownloadPool(1, CONFIG, str, apart) as downloads:
        with pytest.raises(UserError, match=r"the root .* 2 machines.*s3://BUCKET/FOLDER.*ray.shared_disk"):
            downloads.download(root.uri, dataset, ref(0), NOTHING_AGAIN)
        downloads.check_shared("the root", "s3://bucket/data")
        with pytest.raises(UserError, match="the folder of its pictures"):
            downloads.check_shared("the folder of its pictures", "pictures")


def test_what_the_user_is_to_mend_on_another_machine_names_it() -> None:
    start = pickle.dumps((ray_work.start, ()))
    for driver, place in ((platform.node(), ""), ("another", f" (on {platform.node()})")):
        actor = ShardActor(start, driver, str(Path.cwd()), True, Seat(0, 1, 1))
        actor.begin(pickle.dumps((ray_work.fail, (UserError("no weights here"),), {})))
        events, ended = actor.news()
        assert ended is not None and not events
        assert str(pickle.loads(ended).error) == f"no weights here{place}"


def test_without_ray_the_user_is_told_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tasks.workers.ray_workers", "tasks.workers.ray_cluster"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="pip install 'ray"):
        ReportingPool(1, str, ray_work.start, ray=RayConfig())


def test_a_share_of_a_gpu_follows_the_device_unless_it_is_given() -> None:
    assert (RayConfig().gpus_on("auto"), RayConfig().gpus_on("cuda"), RayConfig().gpus_on("cpu")) == (1, 1, 0)
    assert RayConfig(gpus_each=0.5).gpus_on("cpu") == 0.5
    assert RayConfig.model_validate("head:6379") == RayConfig(address="head:6379")
