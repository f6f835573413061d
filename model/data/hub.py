"""BERT files from the Hugging Face hub, fetched once and kept in its cache.

Imported only where such a name is given: the hub's client takes its time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from model.errors import InputError

_WORDS = ("tokenizer_config.json", "vocab.txt", "tokenizer.json", "special_tokens_map.json", "added_tokens.json")
_log = logging.getLogger(__name__)


def fetch_words(name: str) -> Path:
    """Fetch the word pieces and rules of a BERT; return their folder.

    Raises:
        InputError: the hub does not give them.
    """
    try:
        # Every BERT has one, and it tells in which local folder the rest will be.
        folder = Path(hf_hub_download(name, "config.json")).parent
        for file in _WORDS:
            _fetch(name, (file,))
    except (HfHubHTTPError, HFValidationError, EntryNotFoundError, OSError) as error:
        raise InputError(
            f"vocabulary {name!r} is no file or folder here, and the hub does not give it ({_reason(error)}); name a "
            "BERT vocab.txt, the folder of a BERT, or one on the hub"
        ) from error
    return folder


def fetch_bert(name: str, weights: Sequence[str]) -> Path:
    """Fetch a BERT's config, first available weight file and word pieces; return their folder.

    Raises:
        InputError: the hub does not give them.
    """
    try:
        config = Path(hf_hub_download(name, "config.json"))
        if not _fetch(name, weights):
            raise EntryNotFoundError(f"it has neither {' nor '.join(weights)}")
    except (HfHubHTTPError, HFValidationError, EntryNotFoundError, OSError) as error:
        raise InputError(
            f"encoder.bert={name!r} is no folder here, and the hub does not give it ({_reason(error)}); name a folder "
            f"with config.json and {' or '.join(weights)}"
        ) from error
    for file in _WORDS:
        try:
            _fetch(name, (file,))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            # What an earlier version fetched for a machine without a network lacks it.
            _log.warning(
                "%s: %s could not be fetched (%s): not compared with the vocabulary", name, file, _reason(error)
            )
    return config.parent


def _fetch(name: str, files: Sequence[str]) -> bool:
    """Fetch the first of these files that the hub has; False if it has none."""
    for file in files:
        try:
            hf_hub_download(name, file)
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            continue
        return True
    return False


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
