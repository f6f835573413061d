"""Load BERT's weights into ours: word tables, the first layers, the masked-word head, by name.

Unicoder-VL starts from bert-base; its 3- and 6-layer ablations take "the first several layers of pre-trained weights".
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from feature_extraction.weight_files import WeightsError, check_numbers, without_prefix
from feature_extraction.weight_files import read_weights as read_file
from model.data.tokenizer import Vocabulary
from model.errors import InputError
from model.families.bert_folder import WEIGHTS, check_bert, find_bert
from model.families.model import VisionLanguageModel

_THEIRS = ("bert.embeddings.", "bert.encoder.", "cls.", "pooler.")
"""What BERT has of a model: all but its regions and the heads that read them."""
_WORDS = "bert.embeddings.word_embeddings.weight"
_POSITIONS = "bert.embeddings.position_embeddings.weight"
_SEGMENTS = "bert.embeddings.token_type_embeddings.weight"
_HEADS = {
    "cls.predictions.": "the masked-word head",
    "pooler.": "the pooler",
    "cls.seq_relationship.": "the next-sentence head",
}
"""What a BERT may lack: new weights stand in."""
_SHOWN = 3
_TIED = "cls.predictions.decoder.weight"
_LAYER = re.compile(r"bert\.encoder\.layer\.(\d+)\.")
_log = logging.getLogger(__name__)


def load_bert(model: VisionLanguageModel, source: str, vocabulary: Vocabulary) -> None:
    """Fill the model's text side with BERT's weights, in place. What only ours has keeps its new weights.

    Position tables may be longer in BERT, and it may have more layers: ours takes the first. Segment tables may differ
    in length: rows both have are copied. Where ours has no segments, BERT's first one, which all its words carried,
    goes into the position table, so that words enter the layers exactly as in BERT. A BERT without masked-word head or
    pooler, as sentence encoders are, leaves ours new. The log says what is new and what of BERT is not used.

    Args:
        source: a folder with config.json, weights and perhaps its vocabulary, or a name on the Hugging Face hub.

    Raises:
        InputError: the source cannot be had or read; or its settings, its vocabulary or its weights do not fit.
    """
    folder = find_bert(source)
    check_bert(folder, model.config, vocabulary.words)
    theirs = read_weights(folder)
    ours = model.state_dict()
    if not _is_tied(theirs):
        # Its head reads its states by another table than the words', which ours has none for.
        theirs = {name: weight for name, weight in theirs.items() if not name.startswith("cls.predictions.")}
    wanted = [name for name in ours if name.startswith(_THEIRS)]
    missing = [name for name in wanted if name not in theirs and not name.startswith(tuple(_HEADS))]
    if missing:
        raise InputError(
            f"{folder} lacks {len(missing)} weights that this model needs from BERT, such as {', '.join(missing[:3])}; "
            "use a BERT with word and position tables and at least as many layers"
        )
    filled = {name: _fitted(name, theirs[name], ours[name], folder) for name in wanted if name in theirs}
    if _SEGMENTS not in ours and _SEGMENTS in theirs:
        filled[_POSITIONS] = filled[_POSITIONS] + theirs[_SEGMENTS][0].to(filled[_POSITIONS])
    try:
        check_numbers({name: theirs[name] for name in filled})
        check_numbers({name: filled[name] for name in (_POSITIONS,)})
    except WeightsError as error:
        raise InputError(f"encoder.bert={source}: {_weights_file(folder)} {error}") from error
    model.load_state_dict(ours | filled)
    used = filled.keys() | {_SEGMENTS, _TIED, "bert.embeddings.position_ids"}
    _log.info(
        "encoder.bert=%s: %d weights read from %s; new: %s; of BERT not used: %s",
        source,
        len(filled),
        _weights_file(folder),
        _names([name for name in wanted if name not in theirs]),
        _names([name for name in theirs if name not in used]),
    )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read a BERT's weights under our names, whatever program and format wrote them.

    Raises:
        InputError: there is no weights file, or it cannot be read.
    """
    file = _weights_file(folder)
    try:
        weights = read_file(file)
    except WeightsError as error:
        more = "; save its weights alone: its state dict, as safetensors" if error.asks_for else ""
        raise InputError(f"{file} {error}{more}") from error
    return {_our_name(name): weight for name, weight in without_prefix(weights, _base(weights)).items()}


def _weights_file(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    others = [
        path.name for path in folder.glob("*") if re.search(r"\.(h5|msgpack|ckpt|ckpt\..*|index\.json)$", path.name)
    ]
    instead = f" (it has {', '.join(sorted(others)[:3])})" if others else ""
    raise InputError(f"{folder} has neither {' nor '.join(WEIGHTS)}{instead}; name the folder of a BERT saved by torch")


def _base(weights: Iterable[str]) -> str:
    """The word table, whether or not the weights have the prefix `bert.`."""
    return _WORDS if any(name.endswith(f".{_WORDS}") for name in weights) else _WORDS.removeprefix("bert.")


def _our_name(name: str) -> str:
    """Our name of BERT's weight, mending TensorFlow's terms and a missing prefix. The pooler is ours outside of
    `bert`.
    """
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    if name.startswith(("embeddings.", "encoder.", "pooler.")):
        name = f"bert.{name}"
    name = name.replace("cls.predictions.decoder.bias", "cls.predictions.bias")
    return name.replace("bert.pooler.dense.", "pooler.0.")


def _is_tied(theirs: dict[str, Tensor]) -> bool:
    """Whether the masked-word head reuses the word table, as in every BERT that does not say otherwise."""
    return _TIED not in theirs or _WORDS not in theirs or torch.equal(theirs[_TIED], theirs[_WORDS])


def _names(weights: Iterable[str]) -> str:
    """Names of weights in words: layers by their numbers, heads by what they are."""
    layers, heads, others = set(), [], []
    for name in weights:
        if (layer := _LAYER.match(name)) is not None:
            layers.add(int(layer[1]))
        elif (head := next((what for prefix, what in _HEADS.items() if name.startswith(prefix)), None)) is not None:
            heads.append(head)
        else:
            others.append(name)
    found = [f"layers {_ranges(sorted(layers))}"] if layers else []
    found += [*dict.fromkeys(heads), *others[:_SHOWN]]
    if len(others) > _SHOWN:
        found.append(f"{len(others) - _SHOWN} more")
    return ", ".join(found) or "nothing"


def _ranges(numbers: list[int]) -> str:
    """Layers as people count them, from 1: `4 to 12`, or one by one where some between are missing."""
    if numbers[-1] - numbers[0] + 1 == len(numbers) > 1:
        return f"{numbers[0] + 1} to {numbers[-1] + 1}"
    return ", ".join(str(number + 1) for number in numbers)


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
