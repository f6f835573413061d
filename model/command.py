"""Entry shared by this room's four commands: read the job and its data, log to stderr, map errors to exit codes."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from feature_extraction.samples.tars import ShardError
from model.config import FeatureSource, LongTexts
from model.data.captions import Captions, load_captions
from model.data.long_texts import load_short
from model.data.store import FeatureStore, open_store
from model.data.tokenizer import TokenTable, Vocabulary, load_tokens
from model.errors import InputError, TrainingError
from model.families.config import EncoderConfig
from model.progress import Ending, report

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
        return _end(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}", bad_input=True)
    except TrainingError as error:
        return _end(str(error), bad_input=False)
    except (ShardError, InputError) as error:
        return _end(str(error), bad_input=True)
    except (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError) as error:
        return _end(f"{error.filename}: {error.strerror}" if error.filename else str(error), bad_input=True)


def _end(error: str, bad_input: bool) -> int:
    print(error, file=sys.stderr)
    report(Ending(error=error, bad_input=bad_input))
    return 2 if bad_input else 1


def open_data(
    source: FeatureSource, vocabulary: Vocabulary, encoder: EncoderConfig, long_texts: LongTexts = "cut"
) -> tuple[FeatureStore, Captions, TokenTable]:
    """Open one split: feature store, captions and their tokens."""
    store = open_store(source, encoder.adaptive_regions)
    captions = load_captions(source, store)
    if long_texts == "drop":
        return store, *load_short(source.name, captions, vocabulary, encoder.max_text_tokens)
    return store, captions, load_tokens(vocabulary, captions, encoder.max_text_tokens)
