"""Flows are light: importing them needs neither torch, nor a detector, nor ray, which live inside the tasks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
PROGRAM = """
import importlib, pathlib, sys
for path in sorted(pathlib.Path("flows").glob("*.py")):
    importlib.import_module(f"flows.{path.stem}")
print(sorted({"torch", "torchvision", "transformers", "detectron2", "ray"} & set(sys.modules)))
"""


def test_importing_every_flow_imports_neither_torch_nor_ray() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
