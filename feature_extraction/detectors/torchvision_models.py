"""torchvision's named Faster R-CNNs, with its COCO weights or others of the same networks."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn
from torchvision.models import get_model, get_model_weights
from torchvision.models.detection import FasterRCNN

from feature_extraction.config import RANDOM_WARNING, ExtractorConfig
from feature_extraction.detectors.vocabulary import check_length, read_vocabulary
from feature_extraction.plain_pickle import untrusted_text
from feature_extraction.weight_files import WeightsError, check_numbers, plain_reason, read_weights, without_prefix

logger = logging.getLogger(__name__)

FEATURE_DIM = 1024
_CLASSIFIER = "roi_heads.box_predictor.cls_score.weight"
_NO_CLASS = "N/A"
_EPS = {"fasterrcnn_resnet50_fpn": torch.finfo(torch.float32).tiny}
"""Epsilon of the batch norms, where torchvision's weights were trained with another one than it builds. Theirs was 0,
which some versions of torch refuse; this one is lost in any variance."""


def load_torchvision_model(config: ExtractorConfig) -> tuple[FasterRCNN, tuple[str, ...], list[int]]:
    """Load the network that `config.model` names, on the CPU and ready to detect.

    COCO's 91 outputs are the background, 80 classes and 10 numbers without a class. Those 10 are left out of
    the labels, so what little probability they get is neither a label's nor the background's. A network with another
    number of outputs needs a vocabulary of one name for each but the background.

    Returns:
        The network, the names of its foreground classes, and the output of each: background is output 0.

    Raises:
        ValueError: weights or vocabulary cannot be read, or do not fit.
    """
    state = None if config.random_seed is not None else _read_weights(config)
    coco = get_model_weights(config.model).DEFAULT.meta["categories"]
    num_outputs = len(coco) if state is None else len(state[_CLASSIFIER])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.random_seed or 0)
        model = get_model(
            config.model,
            weights=None,
            weights_backbone=None,
            num_classes=num_outputs,
            rpn_pre_nms_top_n_test=max(1000, config.num_proposals),
            rpn_post_nms_top_n_test=config.num_proposals,
        )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = _EPS.get(config.model, module.eps)
    if state is None:
        logger.warning("extractor.model=%s has %s", config.model, RANDOM_WARNING)
    else:
        _fill(model, state, config)
    labels, outputs = _labels(config, coco, num_outputs)
    return model.eval(), labels, outputs


def _read_weights(config: ExtractorConfig) -> dict[str, torch.Tensor]:
    """The state dict in `config.weights`; None there fetches torchvision's own once."""
    if config.weights is None:
        return _own_weights(config.model)
    try:
        state = read_weights(Path(config.weights), config.trust_weights)
    except WeightsError as error:
        if error.asks_for is not None:
            raise ValueError(untrusted_text(config.weights, error.asks_for)) from error
        raise ValueError(f"weights {config.weights} cannot be loaded: the file {error}") from error
    state = without_prefix(state, _CLASSIFIER)
    if _CLASSIFIER not in state:
        raise ValueError(
            f"weights {config.weights} hold no {_CLASSIFIER}; give the path of a state dict of {config.model}"
        )
    return state


def _own_weights(model: str) -> dict[str, torch.Tensor]:
    try:
        state: dict[str, torch.Tensor] = get_model_weights(model).DEFAULT.get_state_dict(
            progress=False, check_hash=True
        )
    except Exception as error:  # the network, the disk, or damaged bytes in torch's cache
        raise ValueError(
            f"torchvision's own weights of {model} cannot be had: {plain_reason(error)}; "
            "or give the path of a state dict in extractor.weights"
        ) from error
    return state


def _fill(model: FasterRCNN, state: dict[str, torch.Tensor], config: ExtractorConfig) -> None:
    """Load a state dict that has exactly the network's weights, each of the right shape.

    Raises ValueError otherwise.
    """
    # Counts of batches, which detection does not use, are in the files of some of torchvision's models only.
    expected = {name: tensor.shape for name, tensor in model.state_dict().items() if not _is_count(name)}
    found = {name: tensor.shape for name, tensor in state.items() if not _is_count(name)}
    wrong = sorted(name for name in expected | found if expected.get(name) != found.get(name))
    if wrong:
        raise ValueError(
            f"weights {config.weights} do not fit {config.model}: keys that differ: {len(wrong)}, first {wrong[0]}; "
            "give the weights that were trained with this model"
        )
    try:
        check_numbers({name: tensor for name, tensor in state.items() if not _is_count(name)})
    except WeightsError as error:
        raise ValueError(f"weights {config.weights} cannot be loaded: the file {error}") from error
    model.load_state_dict(state, strict=False)


def _is_count(name: str) -> bool:
    return name.endswith(".num_batches_tracked")


def _labels(config: ExtractorConfig, coco: list[str], num_outputs: int) -> tuple[tuple[str, ...], list[int]]:
    """Names of the foreground classes, and the classifier output of each."""
    is_coco = num_outputs == len(coco)
    outputs = [number for number in range(1, num_outputs) if not is_coco or coco[number] != _NO_CLASS]
    if config.vocabulary is not None:
        names = read_vocabulary(Path(config.vocabulary))
        return check_length(names, len(outputs), f"vocabulary {config.vocabulary}"), outputs
    if not is_coco:
        raise ValueError(
            f"weights {config.weights} have {num_outputs - 1} foreground classes, not COCO's; "
            "set extractor.vocabulary to the file of their names"
        )
    return tuple(coco[number] for number in outputs), outputs
