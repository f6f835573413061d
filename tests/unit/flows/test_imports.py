"""What is imported where: every second of imports is paid by every command, every time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
EVERY_FLOW = """
import importlib, pathlib
for path in sorted(pathlib.Path("flows").glob("*.py")):
    importlib.import_module(f"flows.{path.stem}")
"""
COMMAND = """
import os, sys
sys.argv[1:] = {arguments}
try:
    from flows.__main__ import app
    app()
except SystemExit as end:
    assert not end.code, end.code
"""
HEAVY = {"torch", "torchvision", "transformers", "detectron2", "ray"}
"""Seconds each."""
SLOW = HEAVY | {"prefect", "rich", "PIL", "yaml", "pyarrow.compute", "urllib3", "sqlite3", "flows.commands.search"}
"""What a command that looks at receipts alone has no use for."""


def imported(program: str, names: set[str]) -> set[str]:
    """Those of the names that a program has imported in the end."""
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys\nprint('imported', *set(sys.modules) & {names!r})"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_importing_every_flow_imports_neither_torch_nor_ray() -> None:
    assert not imported(EVERY_FLOW, HEAVY)


@pytest.mark.parametrize(
    "arguments", [["params", "--recipe", "demo"], ["status", "--recipe", "demo", "--root", "{root}"]], ids=" ".join
)
def test_commands_that_only_look_import_little(arguments: list[str], tmp_path: Path) -> None:
    given = [argument.format(root=tmp_path) for argument in arguments]
    assert not imported(COMMAND.format(arguments=given), SLOW)


def test_predictions_are_measured_without_what_trains(tmp_path: Path) -> None:
    (tmp_path / "dev.json").write_text('{"identifier": "dev-1-0-0", "label": "True"}\n')
    (tmp_path / "predictions.csv").write_text("dev-1-0-0,True\n")
    files = ["--predictions", f"{tmp_path}/predictions.csv", "--annotations", f"{tmp_path}/dev.json"]
    assert not imported(COMMAND.format(arguments=["measure", "nlvr2", *files]), HEAVY | {"prefect"})


def test_the_history_is_read_without_what_makes_it(tmp_path: Path) -> None:
    assert not imported(COMMAND.format(arguments=["history", "--root", str(tmp_path)]), SLOW - {"sqlite3"})


def test_stages_without_prefect_import_neither_it_nor_torch() -> None:
    assert not imported(
        "import flows.steps.direct", HEAVY | {"prefect", "rich", "flows.views.artifacts", "flows.views.progress_bar"}
    )


def test_programs_that_compute_import_torch_and_no_more_of_its_size() -> None:
    programs = "import model.pretrain, model.finetune, model.scoring, model.downstream.retrieval.search"
    assert imported(programs, HEAVY | {"prefect", "torch._dynamo", "torch._inductor", "sympy", "rich"}) == {"torch"}
