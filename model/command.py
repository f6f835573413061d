"""What the three commands of this room share: read the job, log to stderr, turn errors into exit codes."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from feature_extraction.samples import ShardError
from model.errors import InputError
from model.training import TrainingError

Job = TypeVar("Job", bound=BaseModel)


def run_job(module: str, kind: type[Job], work: Callable[[Job], int]) -> int:
    """Run `work` on the job of `--config FILE`. Exit codes: 0 done, 2 bad input, 1 failed, 143 stopped by SIGTERM."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--config", required=True, type=Path, help=f"JSON of a {kind.__name__}")
    path = parser.parse_args().config
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        job = kind.model_validate_json(path.read_bytes())
        return work(job)
    except ValidationError as error:
        first = error.errors()[0]
        print(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(error, file=sys.stderr)
        return 1
    except (FileNotFoundError, ShardError, InputError) as error:
        print(error, file=sys.stderr)
        return 2
