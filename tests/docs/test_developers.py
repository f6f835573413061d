"""docs/developers.md, run: its changes are made in a copy of the checkout, and its commands are typed there.

What would take minutes is replaced by a cheaper proof: of `make` what it would do, of `python -m pytest` the tests that
the page itself adds (all else is only collected), of `unicoder-vl pretrain` whether its options are right, of benches
their names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest

from feature_extraction.samples.manifest import parse_manifest
from feature_extraction.samples.regions import read_region_shard
from tasks.world.dataset import WorldConfig, make_world
from tests.foreign import lxmert_file

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/developers.md").read_text(encoding="utf-8")
FOLDERS = ("flows", "tasks", "model", "feature_extraction", "tests", "docs")
FILES = ("Makefile", "pyproject.toml", "requirements.txt")
WORLD = WorldConfig(pretraining_images=20, retrieval_train=4, retrieval_val=2, retrieval_test=3, workers=1)
OWN_TESTS = "test_colour_detector or hidden_scores or test_recipe_survives_json"
SECONDS = 300
"""What any command may take on a busy machine."""


class Block(NamedTuple):
    """A fenced block: its language, the file that it is the content of, if any, and its text."""

    language: str
    file: str
    text: str


class Ended(NamedTuple):
    status: int
    output: str


BLOCKS = [Block(*match) for match in re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]
COMMANDS = [
    line.strip()
    for block in BLOCKS
    if block.language == "sh"
    for line in re.sub(r"\s*\\\n\s*", " ", block.text).splitlines()
    if line.strip()
]
SPANS = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL))
"""What stands between backticks in the text."""
PYTEST, TRAINING = "python -m pytest ", "python -m model.pretrain "


def apply(tree: Path, diff: str) -> None:
    """Make the changes of a diff whose hunks say `@@ FILE`: lines that stay or go must stand there, and only once."""
    for hunk in re.split(r"^@@ ", diff, flags=re.MULTILINE)[1:]:
        name, _, body = hunk.partition("\n")
        before = re.sub(r"^(\+.*\n|[- ])", "", body, flags=re.MULTILINE)
        after = re.sub(r"^(-.*\n|[+ ])", "", body, flags=re.MULTILINE)
        content = (tree / name).read_text(encoding="utf-8")
        assert content.count(before) == 1, f"{name} has these lines {content.count(before)} times:\n{before}"
        (tree / name).write_text(content.replace(before, after), encoding="utf-8")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The copy, changed, with what the commands need in it: a small world, and features of somebody else."""
    tree = tmp_path_factory.mktemp("checkout")
    for name in FOLDERS:
        shutil.copytree(REPOSITORY / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(REPOSITORY / name, tree / name)
    for block in BLOCKS:
        if block.file:
            (tree / block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "diff":
            apply(tree, block.text)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    make_world(tree / "data/world", WORLD, port)
    lxmert_file(tree / "theirs.tsv", ["000000", "000001"])
    for name, start in (("python", ""), ("unicoder-vl", "-m flows ")):
        script = tree / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {start}"$@"\n')
        script.chmod(0o755)
    return tree


def cheaper(command: str) -> str:
    """The command, or what proves it in seconds."""
    if command.startswith("make "):
        return command.replace("make ", "make -n ", 1)
    if command.startswith("python -m tests.bench "):
        names = command.partition("#")[0].split()[3:]
        return "grep -q " + " ".join(f"""-e '"{name}": '""" for name in names) + " tests/bench/__main__.py"
    return command.replace("unicoder-vl pretrain ", "unicoder-vl params ", 1)


@pytest.fixture(scope="module")
def typed(tree: Path) -> Iterator[dict[str, Ended]]:
    """How each command of the page ended, typed in the page's order."""
    environment = {
        **os.environ,
        "PATH": f"{tree / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(tree),
        "PREFECT_HOME": str(tree / "prefect"),
        "OMP_NUM_THREADS": "1",
    }
    started: list[subprocess.Popen[str]] = []

    def start(command: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                ["bash", "-c", command],
                cwd=tree,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    def end(process: subprocess.Popen[str]) -> Ended:
        output, _ = process.communicate(timeout=SECONDS)
        return Ended(process.returncode, output)

    tested = " ".join(" ".join(re.findall(r"tests/\S+", line)) for line in COMMANDS if line.startswith(PYTEST))
    try:
        # All tests in one process, and both this and the training beside the other commands, which do not need them.
        tests, waiting = start(f"{PYTEST}{tested} -k '{OWN_TESTS}'"), {}
        ended = {}
        for command in COMMANDS:
            if command.startswith(TRAINING):
                waiting[command] = start(command)
            elif not command.startswith(PYTEST):
                ended[command] = end(start(cheaper(command)))
        ended |= {command: end(process) for command, process in waiting.items()}
        passed = end(tests)
        ended |= {command: passed for command in COMMANDS if command.startswith(PYTEST)}
        yield ended
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_there_is_something_to_check() -> None:
    assert {block.language for block in BLOCKS} == {"sh", "python", "diff", "csv"}
    assert sum(command.startswith("unicoder-vl ") for command in COMMANDS) >= 8
    assert len(SPANS) > 100


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_ends_well(typed: dict[str, Ended], command: str) -> None:
    assert typed[command].status == 0, typed[command].output


def test_the_pages_own_tests_have_run(typed: dict[str, Ended]) -> None:
    (own,) = {typed[command].output for command in COMMANDS if command.startswith(PYTEST)}
    found = re.search(r"(\d+) passed, \d+ deselected", own)
    assert found and int(found[1]) >= 2 + 9, own  # its own two, and one for each recipe


def test_the_pages_detector_has_found_regions_in_every_picture(tree: Path, typed: dict[str, Ended]) -> None:
    (record,) = (path for path in tree.glob("data/features/*/extractor.json") if '"colours"' in path.read_text())
    folder = record.parent / "web/train"
    manifest = parse_manifest((folder / "manifest.json").read_bytes(), "manifest")
    assert manifest.labels[0] == "red" and manifest.feature_dim == 10
    with (folder / "regions-00000.tar").open("rb") as stream:
        samples = list(read_region_shard(stream, "regions-00000.tar"))
    assert len(samples) == manifest.shards[0].samples >= 15
    for sample in samples:
        assert 1 <= len(sample.boxes) <= 16
        assert sample.features[:, :7].sum(1) == pytest.approx(np.ones(len(sample.boxes)), abs=0.02)
        assert sample.scores == pytest.approx(sample.features[:, :6].max(1), abs=0.01)
    assert len({int(label) for sample in samples for label in sample.labels}) > 2


def test_the_pages_objective_is_learnt(tree: Path, typed: dict[str, Ended]) -> None:
    lines = [json.loads(line) for line in (tree / "trial/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 10
    assert lines[-1]["loss"] == pytest.approx(sum(lines[-1][name] for name in ("mlm", "moc", "vlm", "mrsr")), rel=1e-4)
    assert lines[-1]["mrsr"] > 0 and "mrsr_accuracy" not in lines[-1]


def test_the_pages_task_is_trained_answered_and_in_the_history(tree: Path, typed: dict[str, Ended]) -> None:
    (line,) = (line for line in COMMANDS if "history" in line)
    table = pq.read_table(tree / "data/datasets/web/train/examples.parquet").to_pylist()
    assert {row["target_index"] for row in table} == {0, 1}
    assert "finetune-any-green" in typed[line].output, typed[line].output
    (predicted,) = tree.glob("data/**/predictions.parquet")
    scores = np.array(pq.read_table(predicted)["scores"].to_pylist())
    right = float((scores.argmax(1) == [row["target_index"] for row in table]).mean())
    assert f"{100 * right:.1f}" in typed[line].output, (right, typed[line].output)


def test_the_pages_dataset_is_there_and_the_second_time_it_stands(typed: dict[str, Ended]) -> None:
    by_rows, again = (typed[line].output for line in COMMANDS if "download" in line and "mine" in line)
    assert "mine/test: 1 shards done, 0 done before; 2 ok, 1 not_found" in by_rows
    assert "mine/test: 0 shards done, 1 done before; 2 ok, 1 not_found" in again
    assert any("mine/test" in typed[line].output for line in COMMANDS if "status" in line)
    (imported,) = (typed[line].output for line in COMMANDS if "import-features" in line)
    assert '"extractor": {"backend": "imported"' in imported


@pytest.fixture(scope="module")
def sources(tree: Path, typed: dict[str, Ended]) -> str:
    """All that the changed program and its tests say, and the names of the trial's metrics."""
    files = [*tree.glob("*/**/*.py"), *tree.glob("trial/*.jsonl"), tree / "pyproject.toml"]
    files = [path for path in files if path.relative_to(tree).parts[:2] != ("tests", "docs")]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


@pytest.fixture(scope="module")
def words(sources: str) -> set[str]:
    """Names and options in them."""
    return set(re.findall(r"(?:--)?[A-Za-z_][\w-]*", sources))


@pytest.mark.parametrize("name", sorted({name for span in SPANS for name in re.findall(r"[\w./-]*[\w/]", span)}))
def test_what_looks_like_a_file_of_ours_is_one(tree: Path, sources: str, name: str) -> None:
    if re.match(r"(flows|tasks|model|feature_extraction|tests|docs|docker)/", name):
        assert (tree / name).exists()
    elif re.fullmatch(r"(flows|tasks|model|feature_extraction|tests)(\.\w+)+", name):
        assert (tree / name.replace(".", "/")).with_suffix(".py").exists() or (tree / name.replace(".", "/")).is_dir()
    elif re.fullmatch(r"[\w-]+\.(py|toml|json|jsonl|csv|tsv)", name):
        # One that a run leaves may be known by its name alone.
        assert any(tree.rglob(name)) or name in sources


@pytest.mark.parametrize(
    "name", sorted({span for span in SPANS if re.fullmatch(r"\.?[A-Za-z_]\w*(\(\))?|[A-Z]\w+\.\w+", span)})
)
def test_what_looks_like_a_name_of_ours_is_one(words: set[str], name: str) -> None:
    assert set(name.strip(".()").split(".")) <= words


@pytest.mark.parametrize("option", sorted({option for span in SPANS for option in re.findall(r"--[a-z-]+", span)}))
def test_every_option_in_the_text_is_one(words: set[str], option: str) -> None:
    assert option in words


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make ([a-z]+)", PAGE))))
def test_every_make_target_in_the_text_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
