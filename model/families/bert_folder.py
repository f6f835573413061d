"""Check that the BERT in a folder fits an encoder and a vocabulary. Imports no torch.

Every setting of its config.json that changes what the same weights compute is either one of the encoder's, and must be
alike there, or refused by name. (Dropout is the encoder's own: it is no part of what a BERT is.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model.data.word_pieces import (
    VOCABULARY,
    WHOLE,
    WordPieces,
    differing_pieces,
    differing_rules,
    read_json,
    read_words,
    shown,
    states_rules,
)
from model.errors import InputError
from model.families.config import EncoderConfig

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""By transformers' names: ours of the same function."""
_ONLY: dict[str, Any] = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "quantization_config": None,
}
"""Settings of which one value is supported; an absent one has it."""


def find_bert(source: str) -> Path:
    """The folder of a BERT: a local one, or one downloaded from the hub.

    Raises:
        InputError: neither a folder nor to be had from the hub.
    """
    if Path(source).is_dir():
        return Path(source)
    from model.data.hub import fetch_bert

    return fetch_bert(source, WEIGHTS)


def check_bert(folder: Path, encoder: EncoderConfig, words: WordPieces) -> dict[str, Any]:
    """Check a BERT's config against the encoder and the vocabulary, and return it.

    Raises:
        InputError: a file of the folder cannot be read, or a setting is another one or not supported.
    """
    config = read_json(folder / "config.json")
    if config is None:
        raise InputError(f"{folder / 'config.json'} cannot be read (it is not there); name the folder of a saved BERT")
    for name, only in _ONLY.items():
        if (theirs := config.get(name) or only) != only:
            raise InputError(f"{folder}: {name}={shown(theirs)}, but only {shown(only)} is supported; use another BERT")
    _check_alike(folder, config, encoder)
    _check_ids(folder, config, words)
    _check_words(folder, words)
    return config


def _check_alike(folder: Path, config: dict[str, Any], encoder: EncoderConfig) -> None:
    """Check the settings that the encoder has, too."""
    activation = config.get("hidden_act", "gelu")
    if activation not in _ACTIVATIONS:
        raise InputError(
            f"{folder}: hidden_act={shown(activation)}, but only {', '.join(_ACTIVATIONS)} are supported; use another "
            "BERT"
        )
    for name, option, theirs, ours in (
        ("num_attention_heads", "num_heads", config.get("num_attention_heads", 12), encoder.num_heads),
        ("hidden_act", "hidden_act", _ACTIVATIONS[activation], encoder.hidden_act),
        ("layer_norm_eps", "layer_norm_eps", config.get("layer_norm_eps", 1e-12), encoder.layer_norm_eps),
    ):
        if theirs != ours:
            raise InputError(
                f"{folder}: {name}={theirs}, but encoder.{option}={ours}; set encoder.{option}={theirs}, or use "
                "another BERT"
            )
    layers = config.get("num_hidden_layers", encoder.num_layers)
    if layers < encoder.num_layers:
        raise InputError(
            f"{folder}: num_hidden_layers={layers}, but encoder.num_layers={encoder.num_layers}; set "
            f"encoder.num_layers={layers} or less, or use a deeper BERT"
        )


def _check_ids(folder: Path, config: dict[str, Any], words: WordPieces) -> None:
    """Check stated ids of special tokens, but for padding's: nothing attends to it."""
    rules = words.rules
    for name, token in (("cls", rules.cls_token), ("sep", rules.sep_token), ("mask", rules.mask_token)):
        theirs = config.get(f"{name}_token_id")
        if theirs is not None and theirs != (ours := words.pieces.index(token)):
            raise InputError(
                f"{folder}: {name}_token_id={theirs}, but {token} is {ours} in vocabulary {words.source}; set "
                "vocabulary_path to the BERT's own"
            )


def _check_words(folder: Path, words: WordPieces) -> None:
    """Raise InputError where the folder's vocabulary or rules differ from those in use."""
    if (folder / VOCABULARY).is_file() or (folder / WHOLE).is_file():
        theirs = read_words(folder)
        if (difference := differing_pieces(theirs.pieces, words.pieces)) is not None:
            raise InputError(
                f"{folder} has not the vocabulary in use, {words.source} ({difference}); set vocabulary_path={folder}"
            )
        if states_rules(folder) and (difference := differing_rules(theirs.rules, words.rules)) is not None:
            raise InputError(
                f"{folder} was trained on words cut by other rules than those of vocabulary {words.source} "
                f"({difference}); set vocabulary_path={folder}, whose rules are its own"
            )
