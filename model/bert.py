"""BERT's weights into ours: word tables, the first layers, the masked-word head, by name.

Unicoder-VL starts from bert-base; its 3- and 6-layer ablations take "the first several layers of pre-trained weights".
"""

from __future__ import annotations

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.embeddings import LAYER_NORM_EPS
from model.encoder import UnicoderVL
from model.errors import InputError
from model.tokenizer import Vocabulary

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_OURS_ALONE = ("bert.region_embeddings.", "region_labels.", "matching.")
"""What no BERT has. All else of a `UnicoderVL` comes from it."""
_POSITIONS = "bert.embeddings.position_embeddings.weight"
_SEGMENTS = "bert.embeddings.token_type_embeddings.weight"


def load_bert(model: UnicoderVL, source: str, vocabulary: Vocabulary) -> None:
    """Fill the model's text side with BERT's weights, in place. What only ours has keeps its new weights.

    Position tables may be longer in BERT, and it may have more layers: ours takes the first. Segment tables may differ
    in length: rows both have are copied. Where ours has no segments, BERT's first one, which all its words carried,
    goes into the position table, so that words enter the layers exactly as in BERT.

    Args:
        source: a folder with config.json, weights and perhaps vocab.txt, or a name on the Hugging Face hub.

    Raises:
        InputError: the source cannot be had or read; or its sizes, its vocabulary or its weights' names do not fit.
    """
    folder = find_bert(source)
    _check_config(_read_config(folder), model)
    _check_vocabulary(folder, vocabulary)
    theirs = read_weights(folder)
    ours = model.state_dict()
    wanted = [name for name in ours if not name.startswith(_OURS_ALONE)]
    missing = [name for name in wanted if name not in theirs]
    if missing:
        raise InputError(
            f"{folder} lacks {len(missing)} weights that this model needs from BERT, such as {', '.join(missing[:3])}; "
            "use a BERT with its masked-word head and at least as many layers"
        )
    filled = {name: _fitted(name, theirs[name], ours[name], folder) for name in wanted}
    if _SEGMENTS not in ours and _SEGMENTS in theirs:
        filled[_POSITIONS] = filled[_POSITIONS] + theirs[_SEGMENTS][0].to(filled[_POSITIONS])
    model.load_state_dict(ours | filled)


def find_bert(source: str) -> Path:
    """The folder of a BERT: a local one as it is, another by downloading its files from the hub.

    Raises:
        InputError: neither a folder nor to be had from the hub.
    """
    if Path(source).is_dir():
        return Path(source)
    try:
        config = Path(hf_hub_download(source, "config.json"))
        hf_hub_download(source, "vocab.txt")
        try:
            hf_hub_download(source, _WEIGHTS[0])
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            hf_hub_download(source, _WEIGHTS[1])
    except (HfHubHTTPError, HFValidationError, EntryNotFoundError, OSError) as error:
        raise InputError(
            f"encoder.bert={source!r} is no folder here, and the hub does not give it "
            f"({str(error).strip().splitlines()[0]}); name a folder with config.json and {' or '.join(_WEIGHTS)}"
        ) from error
    return config.parent


def read_weights(folder: Path) -> dict[str, Tensor]:
    """A BERT's weights under our names, whatever class of transformers and whichever format wrote them.

    Raises:
        InputError: there is no weights file, or it cannot be read.
    """
    files = [folder / name for name in _WEIGHTS if (folder / name).is_file()]
    if not files:
        raise InputError(f"{folder} has neither {' nor '.join(_WEIGHTS)}; name the folder of a saved BERT")
    try:
        if files[0].suffix == ".safetensors":
            weights = load_file(files[0])
        else:
            weights = torch.load(files[0], map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError, SafetensorError) as error:
        raise InputError(f"{files[0]} cannot be read ({error}); get it again") from error
    return {_our_name(name): weight for name, weight in weights.items()}


def _our_name(name: str) -> str:
    """BERT's name, with TensorFlow's terms and a missing prefix mended. The pooler is ours outside of `bert`."""
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    if name.startswith(("embeddings.", "encoder.", "pooler.")):
        name = f"bert.{name}"
    name = name.replace("cls.predictions.decoder.bias", "cls.predictions.bias")
    return name.replace("bert.pooler.dense.", "pooler.0.")


def _fitted(name: str, theirs: Tensor, ours: Tensor, folder: Path) -> Tensor:
    """BERT's weight in the shape of ours.

    Raises:
        InputError: the shapes do not fit.
    """
    if name == _SEGMENTS and theirs.shape[1:] == ours.shape[1:]:
        both = min(len(theirs), len(ours))
        return torch.cat([theirs[:both].to(ours), ours[both:]])
    if name == _POSITIONS and theirs.shape[1:] == ours.shape[1:] and len(theirs) > len(ours):
        theirs = theirs[: len(ours)]
    if theirs.shape != ours.shape:
        raise InputError(
            f"{folder}: {name} is {tuple(theirs.shape)} but this model's is {tuple(ours.shape)}; "
            "set the encoder's sizes to BERT's, or use a BERT of these sizes"
        )
    return theirs.to(ours)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); name the folder of a saved BERT") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} is no JSON object; name the folder of a saved BERT")
    return config


def _check_config(config: dict[str, Any], model: UnicoderVL) -> None:
    """What shapes do not show: the same weights under these would compute something else."""
    for name, default, ours in (
        ("num_attention_heads", 12, model.config.num_heads),
        ("hidden_act", "gelu", "gelu"),
        ("layer_norm_eps", LAYER_NORM_EPS, LAYER_NORM_EPS),
        ("position_embedding_type", "absolute", "absolute"),
    ):
        if (theirs := config.get(name, default)) != ours:
            raise InputError(f"this BERT has {name}={theirs} but the model has {ours}; set both alike")


def _check_vocabulary(folder: Path, vocabulary: Vocabulary) -> None:
    path = folder / "vocab.txt"
    if not path.is_file():
        return
    theirs = path.read_text(encoding="utf-8").splitlines()
    ours = [vocabulary.tokenizer.id_to_token(number) for number in range(vocabulary.size)]
    different = [number for number, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b]
    if different or len(theirs) != len(ours):
        where = f"line {different[0] + 1} differs" if different else f"{len(theirs)} pieces against {len(ours)}"
        raise InputError(f"{path} is not the vocabulary in use ({where}); set vocabulary_path to it")
