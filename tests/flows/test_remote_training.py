"""Training with a root on a real S3 server: killed, it goes on on another machine; and two machines train one run."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from feature_extraction.config import ExtractorConfig
from flows.params.training import PretrainParams
from model.objectives.config import PretrainConfig
from tasks.extractor import extractor_fingerprint
from tasks.records import Receipt, Stage
from tasks.storage.paths import captions_path, captions_receipt_path, features_folder
from tasks.storage.root import Root, file_digest
from tasks.workers.machines import NodesConfig
from tests.s3_server import ACCESS_KEY, SECRET_KEY, Bucket
from tests.toy import TINY, eight_pairs, make_world

__all__ = ["eight_pairs", "make_world"]
pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="what outlives its parent is killed by Linux alone")

REPOSITORY = Path(__file__).parents[2]
EXTRACTOR = ExtractorConfig(backend="torchvision", model="small", max_regions=5)
STEPS = 150
TRAIN = """
import sys
from flows.params.experiment import PretrainParams
from tasks.storage import mirror
from tasks.errors import StageError, UserError
from tasks.storage.root import Root
from tasks.training.train import train
mirror.POLL_SECONDS = 0.05
params = PretrainParams.model_validate_json(sys.argv[1])
try:
    done = train(Root(params.root_uri), params.spec(), lambda progress: None, params.nodes)
except (StageError, UserError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(done.model_dump_json())
"""
"""What a flow's task does, without Prefect."""


class Trainings:
    """One toy run, wherever it is trained: under a local root or on the bucket, by one machine or by two."""

    def __init__(self, folder: Path, bucket: Bucket, vocabulary: Path) -> None:
        self.folder, self.bucket, self._vocabulary = folder, bucket, vocabulary
        self.local, self.remote = str(folder / "root"), f"{bucket.uri}/root"

    def start(self, root: str, machine: str, nodes: NodesConfig | None = None, **config: Any) -> subprocess.Popen[str]:
        """Train on a machine, which is a cache folder of its own."""
        always = {"steps": STEPS, "batch_size": 8, "checkpoint_steps": 10, "log_steps": 10, "num_threads": 1}
        params = PretrainParams(
            root_uri=root,
            dataset="toy",
            extractor=EXTRACTOR,
            vocabulary_path=str(self._vocabulary),
            encoder=TINY.model_copy(update={"dropout": 0.1}),
            pretrain=PretrainConfig.model_validate(always | config),
            nodes=nodes,
        )
        return subprocess.Popen(
            [sys.executable, "-c", TRAIN, params.model_dump_json()],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "XDG_CACHE_HOME": str(self.folder / machine), "OMP_NUM_THREADS": "1"},
        )

    def final(self) -> dict[str, Any]:
        """final.json on the bucket."""
        (path,) = [path for path in self.bucket.paths() if path.endswith("final.json")]
        content: dict[str, Any] = json.loads(self.bucket.get(path))
        return content

    def local_final(self) -> dict[str, Any]:
        (path,) = Path(self.local).glob("runs/*/final.json")
        content: dict[str, Any] = json.loads(path.read_bytes())
        return content

    def steps(self) -> list[int]:
        """Of the checkpoints on the bucket that are whole for whoever reads them; nothing of them is missing."""
        files: dict[int, set[str]] = {}
        for path in self.bucket.paths("root/runs/"):
            if "/checkpoints/" in path:
                files.setdefault(int(path.split("/step-")[1].split("/")[0]), set()).add(path.rpartition("/")[2])
        whole = {step: names for step, names in files.items() if "model.safetensors" in names}
        for names in whole.values():
            assert names >= {"config.json", "vocab.txt", "optimizer.pt", "state.json", "files.json"}
        return sorted(whole)

    def kill_at(self, step: int, process: subprocess.Popen[str], arrives: bool) -> None:
        """Kill a machine when the weights of this step, or of a later one, are on the way; do they arrive?"""
        killed = threading.Event()

        def kill(request: str) -> None:
            found = re.fullmatch(r"PUT .*/step-(\d+)/model\.safetensors", request)
            if found and int(found[1]) >= step:
                process.kill()
                process.wait()
                killed.set()
                if not arrives:
                    raise ConnectionError

        self.bucket.server.on_request = kill
        until = time.monotonic() + 300
        while not killed.wait(0.05):
            assert process.poll() is None and time.monotonic() < until, process.communicate()
        self.bucket.server.on_request = lambda request: None
        process.communicate()


@pytest.fixture
def trainings(bucket: Bucket, eight_pairs: Any, tmp_path: Path) -> Trainings:
    """The eight pairs under a local root and, the same, on the bucket."""
    source, vocabulary = eight_pairs
    extractor, _ = extractor_fingerprint(EXTRACTOR)
    root = Root(str(tmp_path / "root"))
    for path in sorted(Path(source.features_path).iterdir()):
        root.publish_bytes(f"{features_folder(extractor, 'toy', 'train')}/{path.name}", path.read_bytes())
    root.publish_bytes(captions_path("toy", "train"), Path(source.captions_path).read_bytes())
    receipt = Receipt(
        stage=Stage.DOWNLOAD,
        dataset="toy",
        split="train",
        shard=0,
        fingerprint="f",
        counts={"ok": 8},
        files={"captions.parquet": file_digest(Path(source.captions_path))},
        seconds=0,
        created_at="2026-01-01T00:00:00+00:00",
    )
    root.publish_model(captions_receipt_path("toy", "train"), receipt)
    for path in Path(root.uri).rglob("*"):
        if path.is_file():
            bucket.put(f"root/{path.relative_to(root.uri)}", path.read_bytes())
    return Trainings(tmp_path, bucket, vocabulary)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """What it printed, or what it said last."""
    out, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
    return out if code == 0 else errors.strip().splitlines()[-1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_run_goes_on_on_other_machines_by_one_or_by_two_to_the_undisturbed_weights(trainings: Trainings) -> None:
    """One process works the batch off in two parts, as two processes do together: the same sums, bit for bit."""
    one = {"device_batch_size": 4}
    undisturbed = trainings.start(trainings.local, "unused", **one)

    process = trainings.start(trainings.remote, "lost", **one)
    trainings.kill_at(20, process, arrives=False)
    lost = trainings.steps()[-1]
    assert 10 <= lost < STEPS and not [path for path in trainings.bucket.paths() if path.endswith("final.json")]

    # Two go on, and one of them is lost.
    port = free_port()
    nodes = [NodesConfig(nnodes=2, node_rank=rank, master_addr="127.0.0.1", master_port=port) for rank in range(2)]
    first, second = (trainings.start(trainings.remote, f"node-{node.node_rank}", node) for node in nodes)
    trainings.kill_at(lost + 20, second, arrives=True)
    killed = time.monotonic()
    said = finish(first, code=1)
    assert time.monotonic() - killed < 120
    assert said.startswith("StageError: process 0 of 2 lost another one")
    assert "start the same command on every node again, and the run goes on" in said
    reached = trainings.steps()[-1]
    assert lost < reached < STEPS

    # In the place of the lost one, a machine with nothing on its disk.
    machines = ("node-0", "node-2")
    both = [trainings.start(trainings.remote, name, node) for name, node in zip(machines, nodes, strict=True)]
    done, same = (json.loads(finish(process)) for process in both)
    finish(undisturbed)
    assert done == same and not done["skipped"]
    assert trainings.final() == trainings.local_final()
    run = f"root/runs/{done['run']}"
    assert done["uri"] == f"{trainings.bucket.uri}/{run}/checkpoints/step-{STEPS:07d}"
    assert trainings.steps() == [STEPS - 10, STEPS]
    rows = [json.loads(line) for line in trainings.bucket.get(f"{run}/metrics.jsonl").splitlines()]
    assert [row["step"] for row in rows] == list(range(10, STEPS + 1, 10))
    log = trainings.bucket.get(f"{run}/log.txt").decode()
    begun = [
        int(step) for step in re.findall(rf"step (\d+) of {STEPS}: 8 captions a step = 2 processes x 1 parts x 4", log)
    ]
    assert begun[0] >= lost and begun[1] >= reached and len(begun) == 2
    for path in trainings.bucket.paths("root/runs/"):
        content = trainings.bucket.get(path)
        assert ACCESS_KEY.encode() not in content and SECRET_KEY.encode() not in content

    # Done is done, for each of them, whoever listens; and no machine keeps what the root has.
    assert json.loads(finish(trainings.start(trainings.remote, "node-1", nodes[1])))["skipped"]
    for machine in machines:
        assert not list((trainings.folder / machine).rglob("optimizer.pt"))
