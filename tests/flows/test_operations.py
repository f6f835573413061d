"""A server, workers, and runs of deployments that are killed and cancelled, with their workers or without: states end
right, nobody survives, and the next run goes on.

The parts share one server, and are in the order of an operator's first day.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.operate.deployments import read_project
from flows.params.experiment import RebuildParams
from flows.params.recipes import recipe
from flows.results import RebuildResult
from flows.views.result_card import table_rows
from tasks.evaluation.history import read_history
from tasks.extractor import extractor_fingerprint
from tasks.records import Receipt
from tasks.reports.retrieval.tables import retrieval_table
from tasks.storage.paths import features_folder
from tasks.storage.root import Root
from tasks.world.dataset import WorldConfig, make_world
from tests.operating import REPOSITORY, Site, wait_until

pytestmark = [
    pytest.mark.flow,
    pytest.mark.skipif(sys.platform != "linux", reason="what outlives its parent is killed by Linux alone"),
]

WORLD = WorldConfig(pretraining_images=40, retrieval_train=8, retrieval_val=2, retrieval_test=5, workers=1)
HEARTBEAT_SECONDS = 30
"""The least that Prefect takes."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        site.wait_for_server()
        yield site
    finally:
        site.end()


@pytest.fixture(scope="module")
def params(site: Site) -> RebuildParams:
    """The demo with small shards and short training, and its world."""
    return smaller_demo(site, "data/demo")


def smaller_demo(site: Site, root_uri: str) -> RebuildParams:
    params = recipe("demo", root_uri)
    short = {"steps": 40, "batch_size": 4, "checkpoint_steps": 10, "log_steps": 10}
    make_world(site.folder / root_uri / "world", WORLD, free_port())
    return params.model_copy(
        update={
            "pretraining_dataset": params.pretraining_dataset.model_copy(update={"shard_size": 8}),
            "pretrain": params.pretrain.model_copy(update=short | {"steps": 300}),
            "finetune": params.finetune.model_copy(update=short),
            "task_specific": None,
            "max_workers": 1,
            "max_trainings": 1,
        }
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def setup(site: Site, *arguments: str) -> dict[str, str]:
    """What `unicoder-vl setup` did: by name, made, changed or stands."""
    out = site.command("flows", "setup", "--json", *arguments)
    return {one["name"]: one["done"] for one in json.loads(out)["made"]}


def smaller_project(site: Site, params: RebuildParams) -> Path:
    """The prefect.yaml of this project, with a smaller demo and faster heartbeats."""
    project: dict[str, Any] = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    for deployment in project["deployments"]:
        deployment["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] = str(HEARTBEAT_SECONDS)
        if deployment["name"] == "demo":
            deployment["parameters"]["params"] = params.model_dump(mode="json")
    path = site.folder / "smaller.yaml"
    path.write_text(yaml.safe_dump(project))
    return path


@pytest.fixture(scope="module")
def setups(site: Site, params: RebuildParams) -> list[dict[str, str]]:
    """What setup did at first, with the project's own prefect.yaml, and then with another one."""
    return [setup(site), setup(site, "--file", str(smaller_project(site, params)))]


def test_setup_makes_and_changes(site: Site, setups: list[dict[str, str]]) -> None:
    first, second = setups
    assert set(first.values()) == {"made"}
    assert {"unicoder-vl", "rebuild/cc3m", "rebuild/demo", "finetune/coco", "evaluate/scheduled"} <= set(first)
    assert set(second) == set(first)
    assert {name for name, done in second.items() if done == "stands"} == {"unicoder-vl"}
    deployments = site.post("/deployments/filter", {})
    assert len(deployments) == len(first) - 2
    assert {one["global_concurrency_limit"]["limit"] for one in deployments} == {1}
    (automation,) = site.post("/automations/filter", {})
    assert automation["trigger"]["within"] == 3 * HEARTBEAT_SECONDS


@pytest.fixture(scope="module")
def undisturbed(site: Site, setups: object) -> Callable[[], RebuildResult]:
    """The same experiment under another root, begun by the command line, and not killed."""
    params = smaller_demo(site, "data/undisturbed")
    (site.folder / "undisturbed.json").write_text(params.model_dump_json())
    process = site.start("flows", "rebuild", "--params", "undisturbed.json", "--json")

    def result() -> RebuildResult:
        assert process.wait(600) == 0, (site.folder / "rebuild.log").read_text()
        return RebuildResult.model_validate_json((site.folder / "rebuild.out").read_text().splitlines()[-1])

    return result


@pytest.fixture(scope="module")
def silent_server(site: Site) -> Iterator[None]:
    """rows.tsv, whose URLs lead to a server that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        (site.folder / "rows.tsv").write_text("".join(f"a cat\thttp://127.0.0.1:{port}/{n}\n" for n in range(4)))
        yield


def hanging_download(root_uri: str) -> dict[str, Any]:
    """Parameters of a download that waits for minutes."""
    dataset = {"name": "web", "splits": {"train": "rows.tsv"}}
    patient = {"allow_private_addresses": True, "read_timeout_seconds": 600, "deadline_seconds": 600}
    return {"root_uri": root_uri, "datasets": [dataset], "download": patient}


def wait_for_download(site: Site, root_uri: str) -> None:
    """Return once requests are under way."""
    journals = site.folder / root_uri / "datasets/web/train"
    wait_until(lambda: list(journals.rglob("*.journal")), f"the download to {root_uri}", 120)


@pytest.fixture(scope="module")
def lost_run(site: Site, setups: object, silent_server: None) -> str:
    """A download on a machine that went down: its worker has had no time to see how it ended."""
    worker = site.start_prefects_worker()
    run = site.run("download/cc3m", hanging_download("data/lost"))
    wait_for_download(site, "data/lost")
    worker.send_signal(signal.SIGSTOP)
    site.kill(run)
    worker.kill()
    worker.wait()
    site.wait_for_nobody(run)
    assert site.state(run) == "RUNNING"
    return run


class Workers:
    """The one worker that runs, and those that are started in its place."""

    def __init__(self, site: Site) -> None:
        self.now = site.start_prefects_worker()


@pytest.fixture(scope="module")
def workers(site: Site, lost_run: str, undisturbed: object) -> Workers:
    return Workers(site)


class Trainings:
    """The pretraining of the rebuild that is interrupted again and again."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def wait_for_steps(self) -> None:
        """Return once it has come further."""
        before = self._checkpoints()
        wait_until(lambda: self._checkpoints() - before, "training", 240)

    def _checkpoints(self) -> set[str]:
        return {path.name for path in self._root.glob("runs/pretrain-*/checkpoints/step-*[0-9]")}

    def assert_stopped_in_order(self, times: int) -> None:
        """It was asked to stop so many times so far, and did, with a checkpoint."""
        (log,) = self._root.glob("runs/pretrain-*/log.txt")
        assert log.read_text().count("was asked to stop: checkpoint written at step") == times
        assert not (log.parent / "final.json").exists()


@pytest.fixture(scope="module")
def trainings(site: Site, params: RebuildParams) -> Trainings:
    return Trainings(site.folder / params.root_uri)


@pytest.fixture(scope="module")
def rebuilding(site: Site, workers: Workers, params: RebuildParams) -> str:
    """A rebuild that was killed during extraction, by kill -9 of the process that runs its flow."""
    run = site.run("rebuild/demo")
    root = site.folder / params.root_uri
    wait_until(lambda: any(root.glob("features/*/web/train/regions-00001.json")), "extraction", 240)
    site.kill(run)
    return run


def test_a_killed_flow_is_marked_by_its_worker(site: Site, rebuilding: str) -> None:
    assert site.wait_for_end(rebuilding, 60) == "CRASHED"
    site.wait_for_nobody(rebuilding)


def test_extraction_that_hangs_can_be_cancelled(site: Site, rebuilding: str) -> None:
    site.command("prefect", "flow-run", "retry", rebuilding)
    wait_until(lambda: site.pool_workers(rebuilding), "extraction to go on", 240)
    for pid in site.pool_workers(rebuilding):
        os.kill(pid, signal.SIGSTOP)
    site.cancel(rebuilding)
    assert site.wait_for_end(rebuilding, 90) == "CANCELLED"
    site.wait_for_nobody(rebuilding)


def test_a_killed_worker_takes_its_run_along_in_order(
    site: Site, workers: Workers, rebuilding: str, trainings: Trainings
) -> None:
    site.retry(rebuilding)
    trainings.wait_for_steps()
    workers.now.kill()
    assert site.wait_for_end(rebuilding, 90) == "CRASHED"
    assert "termination signal" in site.message(rebuilding)
    site.wait_for_nobody(rebuilding)
    trainings.assert_stopped_in_order(1)


def test_a_worker_that_is_asked_to_stop_lets_its_run_end_in_order(
    site: Site, workers: Workers, rebuilding: str, trainings: Trainings
) -> None:
    workers.now = site.start_worker()
    site.retry(rebuilding)
    trainings.wait_for_steps()
    workers.now.terminate()
    assert workers.now.wait(90) == 0
    assert site.state(rebuilding) == "CRASHED"
    assert "termination signal" in site.message(rebuilding)
    assert not site.processes(rebuilding)
    trainings.assert_stopped_in_order(2)


def test_training_that_is_cancelled_writes_a_checkpoint(
    site: Site, workers: Workers, rebuilding: str, trainings: Trainings
) -> None:
    workers.now = site.start_worker()
    site.retry(rebuilding)
    trainings.wait_for_steps()
    site.cancel(rebuilding)
    assert site.wait_for_end(rebuilding, 90) == "CANCELLED"
    site.wait_for_nobody(rebuilding)
    trainings.assert_stopped_in_order(3)


def test_after_all_of_that_the_next_run_ends_with_the_undisturbed_table(
    site: Site, rebuilding: str, params: RebuildParams, undisturbed: Callable[[], RebuildResult]
) -> None:
    said = site.command("prefect", "deployment", "run", "rebuild/demo", "--watch")
    (last,) = re.findall(r"UUID: (\S+)", said)
    table = site.artifact(last, "retrieval")
    assert [row["setting"] for row in table] == ["`chance`", "`zero-shot`", "`pretrain+finetune`"]
    assert table == table_rows(retrieval_table(undisturbed().table))
    root = site.folder / params.root_uri
    assert len(read_history(Root(str(root)))) == 2
    assert not list(root.rglob("*.part"))


def test_cancelled_download_leaves_nobody(site: Site, workers: Workers, silent_server: None) -> None:
    run = site.run("download/resume-failed", hanging_download("data/cancelled"))
    wait_for_download(site, "data/cancelled")
    site.cancel(run)
    assert site.wait_for_end(run, 90) == "CANCELLED"
    site.wait_for_nobody(run)


def test_a_retry_works_on_the_broken_shards_and_on_no_others(
    site: Site, workers: Workers, params: RebuildParams
) -> None:
    extractor = params.extractor.model_copy(update={"min_score": 0.2})
    images = site.folder / params.root_uri / "datasets/web/train/images"
    tars = sorted(images.glob("*.tar"))
    assert len(tars) == 6
    whole = {path: path.read_bytes() for path in (tars[1], tars[4])}
    for path, content in whole.items():
        path.write_bytes(b"\xff" * len(content))
    asked = params.for_extract().model_copy(update={"extractor": extractor, "only": ("web/train",)})
    run = site.run("extract/cc3m", asked.model_dump(mode="json"))
    assert site.wait_for_end(run) == "FAILED"
    assert "2 of 6 shards failed: web/train/00001, web/train/00004; the others are done" in site.message(run)

    features = site.folder / params.root_uri / features_folder(extractor_fingerprint(extractor)[0], "web", "train")
    made = receipts(features)
    assert sorted(made) == [0, 2, 3, 5]
    assert [row["shard"] for row in site.artifact(run, "failed-shards-extract")] == ["00001", "00004"]
    for path, content in whole.items():
        path.write_bytes(content)
    site.retry(run)
    wait_until(lambda: site.state(run) not in ("FAILED", "SCHEDULED"), "the retry", 60)
    assert site.wait_for_end(run) == "COMPLETED"
    again = receipts(features)
    assert sorted(again) == [0, 1, 2, 3, 4, 5]
    assert {shard for shard, receipt in again.items() if made.get(shard) != receipt} == {1, 4}


def receipts(features: Path) -> dict[int, Receipt]:
    found = [Receipt.model_validate_json(path.read_text()) for path in features.glob("regions-*.json")]
    return {receipt.shard: receipt for receipt in found}


def test_a_run_lost_with_its_worker_is_marked_as_crashed_and_the_next_one_goes_on(
    site: Site, lost_run: str, workers: Workers, params: RebuildParams
) -> None:
    next_run = site.run("download/cc3m", params.for_download().model_dump(mode="json"))
    wait_until(lambda: site.state(lost_run) == "CRASHED", "the automation", 2 * 3 * HEARTBEAT_SECONDS + 60)
    assert "No heartbeat for 90 s" in site.message(lost_run)
    assert site.wait_for_end(next_run, 120) == "COMPLETED"


def test_the_scheduled_evaluation_has_runs_ahead(site: Site, setups: object) -> None:
    wait_until(lambda: site.scheduled_runs("evaluate/scheduled"), "the scheduler", 90)


def declared(site: Site) -> list[dict[str, Any]]:
    """What stands on the server, without what changes when a worker looks for runs."""
    fields = ("id", "name", "version", "description", "tags", "parameters", "schedules", "concurrency_options")
    # Several have the same name, so the server lists them in any order.
    found = sorted(site.post("/deployments/filter", {}), key=lambda one: str(one["id"]))
    deployments = [{name: one[name] for name in fields} for one in found]
    return [*deployments, *site.post("/automations/filter", {})]


def test_setup_again_changes_nothing_and_keeps_what_was_turned_off(site: Site, setups: object) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.operate.setup import set_up

    nightly = site.get("/deployments/name/evaluate/scheduled")
    schedule = f"/deployments/{nightly['id']}/schedules/{nightly['schedules'][0]['id']}"
    site.patch(schedule, {"active": False})
    before = declared(site)
    project = read_project(site.folder / "smaller.yaml", site.folder)
    with temporary_settings({PREFECT_API_URL: site.api_url}):
        assert {one.done for one in set_up(project)} == {"stands"}
        assert declared(site) == before
        other = [
            one.model_copy(update={"description": "Every night."}) if one.schedules else one
            for one in project.deployments
        ]
        changed = set_up(project.model_copy(update={"deployments": tuple(other)}))
    assert [one.name for one in changed if one.done == "changed"] == ["evaluate/scheduled"]
    nightly = site.get("/deployments/name/evaluate/scheduled")
    assert nightly["description"] == "Every night."
    assert [one["active"] for one in nightly["schedules"]] == [False]
