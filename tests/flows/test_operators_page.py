"""docs/operators.md, typed line by line: its experiment is a small web, everything else is as it stands there."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from flows.commands.app import app
from flows.params.experiment import RebuildParams
from flows.params.recipes import recipe
from tasks.world.dataset import WorldConfig, make_world
from tasks.world.server import WorldServer
from tests.operating import REPOSITORY, Site, wait_until

PAGE = (REPOSITORY / "docs/operators.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line]
INLINE = re.findall(r"`((?:unicoder-vl|prefect) [^`]+)`", PAGE)
SERVER = "http://127.0.0.1:4200/api"
WORLD = WorldConfig(pretraining_images=24, retrieval_train=6, retrieval_val=2, retrieval_test=4, workers=1)

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="what outlives its parent is killed by Linux alone")


class Operator:
    """Somebody who reads the page and types what it says."""

    def __init__(self, site: Site, experiment: RebuildParams) -> None:
        self._site = site
        self._site.environment.pop("PREFECT_API_URL")  # Until the page has it exported.
        self._experiment = experiment
        self._run = ""
        self._ends = "COMPLETED"

    def type(self, line: str) -> str:
        """Do what a line says; what it printed.

        Raises:
            AssertionError: it failed, or the run that a line before it has begun.
        """
        if line == "prefect server start":
            return str(self._site.get("/health"))  # It runs already, on another port.
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            self._site.environment[name] = value.replace(SERVER, self._site.api_url)
            return ""
        if line == "unicoder-vl worker":
            self._site.start_worker()
            return ""
        if line.startswith("prefect flow-run cancel "):
            self._ends = "CANCELLED"
        self._wait(before=line)
        said = self._do(line.replace("RUN", self._run) + (" --file small.yaml" if line == "unicoder-vl setup" else ""))
        if "> cc3m.json" in line:
            self._edit(self._site.folder / "cc3m.json")
        for run in re.findall(r"UUID: (\S+)", said):
            self._run, self._ends = run, "COMPLETED"
        if line.startswith("prefect flow-run retry "):
            wait_until(lambda: self._site.state(self._run) != self._ends, "the retry", 60)
            self._ends = "COMPLETED"
        return said

    def _wait(self, before: str) -> None:
        """What was begun has an end before the next line, unless that line ends it."""
        if self._run and not before.startswith("prefect flow-run cancel "):
            ended = self._site.wait_for_end(self._run)
            assert ended == self._ends, "\n".join(self._site.log(self._run)[-30:])

    def _do(self, line: str) -> str:
        bin_folder = Path(sys.executable).parent
        environment = {**self._site.environment, "PATH": f"{bin_folder}:{self._site.environment['PATH']}"}
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self._site.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _edit(self, path: Path) -> None:
        assert RebuildParams.model_validate_json(path.read_text()) == recipe("cc3m", "data")
        path.write_text(self._experiment.model_dump_json())


def small_experiment() -> RebuildParams:
    """The demo under the names that the page uses, with next to no training."""
    params = recipe("demo", "data")
    short: dict[str, Any] = {"steps": 4, "batch_size": 4, "checkpoint_steps": 2, "log_steps": 1}
    web = params.pretraining_dataset.model_copy(
        update={"name": "cc3m", "splits": {"train": "Train_GCC-training.tsv"}, "shard_size": 16}
    )
    rows = {split: f"world/rows/retrieval-{split}.tsv" for split in ("train", "val", "test")}
    flickr30k = params.retrieval_dataset.model_copy(update={"name": "flickr30k", "splits": rows})
    return params.model_copy(
        update={
            "pretraining_dataset": web,
            "retrieval_dataset": flickr30k,
            "vocabulary_path": "world/vocabulary.txt",
            "pretrain": params.pretrain.model_copy(update=short),
            "finetune": params.finetune.model_copy(update=short),
            "task_specific": None,
        }
    )


def small_project(experiment: RebuildParams) -> dict[str, Any]:
    """prefect.yaml, whose deployments that the page runs have the small experiment."""
    project: dict[str, Any] = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    own = {
        ("flows.rebuild.rebuild", "cc3m"): experiment.model_dump(mode="json"),
        ("flows.download.download", "resume-failed"): experiment.for_download().model_dump(mode="json") | {"retry": {}},
        ("flows.evaluate.evaluate", "scheduled"): experiment.for_evaluate("zero-shot").model_dump(mode="json")
        | {"checkpoint": "newest", "max_drop": 0.02},
    }
    for deployment in project["deployments"]:
        params = own.pop((deployment["entrypoint"], deployment["name"]), None)
        if params is not None:
            deployment["parameters"]["params"] = params
    assert not own
    return project


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    site = Site(tmp_path_factory.mktemp("home"))
    experiment = small_experiment()
    try:
        world = site.folder / "world"
        make_world(world, WORLD, port := free_port())
        with WorldServer(world, port):
            (site.folder / "world/rows/web-train.tsv").rename(site.folder / "Train_GCC-training.tsv")
            (site.folder / "small.yaml").write_text(yaml.safe_dump(small_project(experiment)))
            site.wait_for_server()
            yield Operator(site, experiment)
    finally:
        site.end()


@pytest.mark.flow
@needs_linux
@pytest.mark.parametrize("line", COMMANDS)
def test_what_the_page_types_works(operator: Operator, line: str) -> None:
    said = operator.type(line)
    if line.startswith(("unicoder-vl history", "unicoder-vl status", "unicoder-vl verify", "prefect flow-run ls")):
        assert said.strip()


def test_the_page_covers_every_part_of_the_way() -> None:
    typed = "\n".join(COMMANDS)
    for words in ("params", "download", "extract", "setup", "server start", "worker", "deployment run", "status"):
        assert f" {words}" in typed


@pytest.mark.parametrize("text", [text for text in INLINE if text.startswith("unicoder-vl ")])
def test_the_command_line_takes_what_the_tables_name(text: str) -> None:
    words = shlex.split(text)
    command = typer.main.get_group(app).get_command(None, words[1])  # type: ignore[arg-type]
    assert command is not None
    with command.make_context(words[1], words[2:]) as context:
        assert context.params


@pytest.mark.parametrize("text", [text for text in INLINE if text.startswith("prefect ")])
def test_what_the_tables_name_of_prefect_is_typed_too(text: str) -> None:
    words = text.removeprefix("prefect ")
    assert any(words in line for line in COMMANDS)


@pytest.mark.parametrize("params", re.findall(r"'changes=(\{.*?\})'", PAGE))
def test_changes_are_fields_of_the_experiment(params: str) -> None:
    from flows.params.changes import with_changes

    assert with_changes(recipe("cc3m", "data"), json.loads(params)) != recipe("cc3m", "data")
