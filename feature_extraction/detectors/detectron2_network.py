"""Detectron2's networks, built and loaded: presets, config files and model-zoo names.

`vg-r101-c4` is the ResNet-101 C4 network of the widely used Visual Genome weights, which were converted from
bottom-up-attention's Caffe ones. Four things of it cannot be had from a stock build: see `caffe_network`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_extraction.config import RANDOM_WARNING, VG_PRESET, ZOO_PRESETS, ExtractorConfig
from feature_extraction.detectors.vocabulary import check_length, read_vocabulary
from feature_extraction.plain_pickle import PlainUnpickler, untrusted_text
from feature_extraction.weight_files import (
    WeightsError,
    check_numbers,
    content_problem,
    plain_reason,
    refused_name,
    unwrap,
)

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

DETECTRON2_MISSING = (
    "extractor.backend='detectron2' needs Detectron2, which is not installed; after the requirements, run: "
    "uv pip install --no-build-isolation-package detectron2 '.[detectron2]'"
)
NUM_VG_CLASSES = 1600
_CAFFE_MEAN = [102.9801, 115.9465, 122.7717]
_RANDOM_RESIDUAL = 0.2
"""Share of a residual branch in an untrained network: at 1 the activations double from block to block."""


@dataclass(frozen=True)
class Network:
    """A GeneralizedRCNN of Detectron2 on its device, with facts about it.

    `cfg` is its config node; `is_c4` tells a C4 head (res5 over each region) from one that gives a vector by itself;
    `feature_dim` is D; `labels` names the foreground classes.
    """

    model: Any
    cfg: Any
    is_c4: bool
    feature_dim: int
    labels: tuple[str, ...]


def build_network(config: ExtractorConfig, device: torch.device) -> Network:
    """Build the network that `config` names, with all its weights, ready to detect.

    Raises:
        ValueError: Detectron2 is not installed; config, weights or vocabulary cannot be read or do not fit each
            other; or the network has no vectors that we could take.
    """
    import torch

    cfg = _read_config(config)
    cfg.MODEL.DEVICE = str(device)
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = config.num_proposals
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.random_seed or 0)
        model = _build(cfg, config.model)
    is_c4, feature_dim = _head_kind(model, config.model)
    labels = _labels(cfg, config)
    if config.random_seed is None:
        is_vg = config.model == VG_PRESET
        load_weights(model, cfg.MODEL.WEIGHTS, may_have_attributes=is_vg, trusted=config.trust_weights)
    else:
        _soften_residuals(model)
        logger.warning("extractor.model=%s has %s", config.model, RANDOM_WARNING)
    return Network(model, cfg, is_c4, feature_dim, labels)


def import_problem(error: ImportError) -> ValueError:
    """Advice for a user whose Detectron2 is absent or cannot be imported."""
    if error.name == "detectron2":
        return ValueError(DETECTRON2_MISSING)
    return ValueError(
        f"Detectron2 is installed but cannot be imported ({error}); it needs setuptools<81, iopath<0.1.10"
    )


def _read_config(config: ExtractorConfig) -> Any:
    """Detectron2's config node for `config.model`, with MODEL.WEIGHTS set to what is to be loaded."""
    try:
        from detectron2 import model_zoo
        from detectron2.config import CfgNode, get_cfg
    except ImportError as error:
        raise import_problem(error) from error
    from yaml import YAMLError  # It comes with Detectron2.

    zoo_name = ZOO_PRESETS.get(config.model, config.model)
    is_file = Path(config.model).is_file()
    try:
        if config.model == VG_PRESET:
            cfg = _caffe_config(model_zoo.get_config(ZOO_PRESETS["coco-r101-c4"]))
        elif is_file:
            cfg = get_cfg()
            cfg.merge_from_file(config.model, allow_unsafe=False)
        else:
            cfg = model_zoo.get_config(zoo_name)
            if not isinstance(cfg, CfgNode):
                raise ValueError("it is a program")
    # An empty file is a TypeError there, and a text without keys an AttributeError.
    except (OSError, RuntimeError, KeyError, ValueError, AssertionError, TypeError, AttributeError, YAMLError) as error:
        reason = str(error).partition("\n")[0]
        if is_file:
            raise ValueError(
                f"extractor.model={config.model!r} is no config file of Detectron2 ({reason}); give one in YAML"
            ) from error
        raise ValueError(
            f"extractor.model={config.model!r} is no preset ({', '.join([*ZOO_PRESETS, VG_PRESET])}), no file, and no "
            f"YAML config of Detectron2's model zoo ({reason}); give one of these"
        ) from error
    if config.weights is not None:
        cfg.MODEL.WEIGHTS = config.weights
    elif is_file:
        raise ValueError(
            f"extractor.weights is not set, and config file {config.model} has no default; give their path"
        )
    else:
        cfg.MODEL.WEIGHTS = model_zoo.get_checkpoint_url(zoo_name)
    return cfg


def _build(cfg: Any, name: str) -> Any:
    from detectron2.modeling import build_model

    try:
        model = build_model(cfg)
    except (KeyError, ValueError, AssertionError) as error:
        raise ValueError(f"extractor.model={name!r}: Detectron2 cannot build its network ({error!r})") from error
    if name == VG_PRESET:
        caffe_network(model)
    return model.to(cfg.MODEL.DEVICE).eval()


def _head_kind(model: Any, name: str) -> tuple[bool, int]:
    """Whether the box head is a C4 one, and D.

    Raises ValueError for a network whose vectors we cannot take.
    """
    from detectron2.modeling import GeneralizedRCNN, StandardROIHeads
    from detectron2.modeling.roi_heads import FastRCNNOutputLayers, Res5ROIHeads

    heads = getattr(model, "roi_heads", None)
    predictor = getattr(heads, "box_predictor", None)
    if (
        not isinstance(model, GeneralizedRCNN)
        or model.proposal_generator is None
        or not isinstance(predictor, FastRCNNOutputLayers)
        or predictor.use_sigmoid_ce  # it has no background class
    ):
        raise ValueError(
            f"extractor.model={name!r} builds a {type(model).__name__} with {type(heads).__name__}; "
            "give a Faster R-CNN with one box head and a softmax over classes and background"
        )
    if isinstance(heads, Res5ROIHeads):
        return True, int(heads.res5[-1].out_channels)
    if isinstance(heads, StandardROIHeads) and heads.box_head.output_shape.height is None:
        return False, int(heads.box_head.output_shape.channels)
    raise ValueError(
        f"extractor.model={name!r} has {type(heads).__name__}, whose box head gives no vector; give a C4 or FPN one"
    )


# --- the Visual Genome preset ---------------------------------------------------------------------------------------


def _caffe_config(cfg: Any) -> Any:
    """A stock config's share of the Visual Genome network.

    Pictures are brought to 600 pixels, 1,000 at most.
    """
    cfg.MODEL.PIXEL_MEAN = _CAFFE_MEAN
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[64, 128, 256, 512]]
    cfg.MODEL.RPN.CONV_DIMS = [512]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_VG_CLASSES
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = "ROIPool"
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 600, 1000
    # Its label names come from the vocabulary file, never from COCO.
    cfg.DATASETS.TRAIN = ()
    return cfg


def caffe_network(model: Any) -> None:
    """Change a stock R101-C4 network into the Caffe form that no config can express.

    Keys of weights stay the same.

    Its first max-pool has no padding and rounds up; its res5 keeps the 14x14 of the pooled region and sees as far by
    dilation instead. (RPN hidden width 512 and RoI max-pool, the other two of the four, are in its config.)
    """
    from detectron2.modeling.backbone.resnet import BasicStem
    from torch.nn.functional import max_pool2d, relu

    class CaffeStem(BasicStem):  # type: ignore[misc]
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return max_pool2d(relu(self.conv1(pixels)), kernel_size=3, stride=2, ceil_mode=True)

    stem = model.backbone.stem
    caffe_stem = CaffeStem(stem.in_channels, stem.out_channels, "FrozenBN")
    caffe_stem.load_state_dict(stem.state_dict())
    model.backbone.stem = caffe_stem
    for block in model.roi_heads.res5:
        block.conv2.dilation = block.conv2.padding = (2, 2)
        for layer in (block.conv1, block.conv2, block.shortcut):
            if layer is not None:
                layer.stride = (1, 1)


# --- weights and labels ---------------------------------------------------------------------------------------------


def load_weights(model: Any, path: str, may_have_attributes: bool, trusted: bool = False) -> None:
    """Load weights, and refuse any that leave a part of the network random.

    Detectron2 itself only warns about it.

    The Visual Genome weights also come with a classifier of attributes, which is passed over. A file that would do
    more than build arrays or tensors is refused unless it is `trusted`: Detectron2 runs whatever a `.pkl` asks for.
    """
    import torch
    from detectron2.checkpoint import DetectionCheckpointer

    class Checkpointer(DetectionCheckpointer):  # type: ignore[misc]
        """A checkpointer that remembers which weights did not fit; its base class logs and forgets them."""

        problems: tuple[str, ...] = ()

        def _load_file(self, filename: str) -> Any:
            if filename.endswith(".pkl") and not trusted:
                with Path(filename).open("rb") as stream:
                    PlainUnpickler(stream, encoding="latin1").load()
            return super()._load_file(filename)

        def _torch_load(self, filename: str) -> Any:
            held = unwrap(torch.load(filename, map_location="cpu", weights_only=not trusted))
            if not isinstance(held, Mapping):
                raise WeightsError(f"holds a {type(held).__name__}, not weights by their names; save a state dict")
            return {"model": held}

        def _load_model(self, checkpoint: Any) -> Any:
            incompatible = super()._load_model(checkpoint)
            unexpected = [
                key
                for key in incompatible.unexpected_keys
                if not (may_have_attributes and key.startswith("roi_heads.box_predictor."))
            ]
            reshaped = {key for key, _, _ in incompatible.incorrect_shapes}  # They count as missing, too.
            self.problems = (
                *(
                    f"{key}: {tuple(found)} in the file, {tuple(wanted)} in the model"
                    for key, found, wanted in incompatible.incorrect_shapes
                ),
                *(f"{key}: absent in the file" for key in incompatible.missing_keys if key not in reshaped),
                *(f"{key}: not in the model" for key in unexpected),
            )
            return incompatible

    checkpointer = Checkpointer(model)
    try:
        if "://" not in path and (problem := content_problem(Path(path))) is not None:
            raise WeightsError(problem)
        checkpointer.load(path)
        if not checkpointer.problems:
            check_numbers({name: value for name, value in model.state_dict().items() if value.is_floating_point()})
    except WeightsError as error:
        raise ValueError(f"weights {path} cannot be loaded: the file {error}") from error
    except Exception as error:  # unpickling damaged bytes can raise anything
        name = refused_name(error)
        if name is not None:
            raise ValueError(untrusted_text(path, name)) from error
        raise ValueError(
            f"weights {path} cannot be loaded: the file {plain_reason(error)}; they are a model-zoo .pkl, or a .pth "
            "that holds tensors alone"
        ) from error
    if checkpointer.problems:
        raise ValueError(
            f"weights {path} do not fit the model: keys that differ: {len(checkpointer.problems)}, first "
            f"{checkpointer.problems[0]}; give the weights that were trained with this config"
        )


def _soften_residuals(model: Any) -> None:
    """Keep the activations of an untrained network at the size of a trained one's."""
    from detectron2.modeling.backbone.resnet import BottleneckBlock

    for block in model.modules():
        if isinstance(block, BottleneckBlock) and block.conv3.norm is not None:
            block.conv3.norm.weight.data.mul_(_RANDOM_RESIDUAL)


def _labels(cfg: Any, config: ExtractorConfig) -> tuple[str, ...]:
    """Names of the foreground classes: from the vocabulary, else from the data set that the config names."""
    from detectron2.data import MetadataCatalog

    num_classes = int(cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    if config.vocabulary is not None:
        return check_length(read_vocabulary(Path(config.vocabulary)), num_classes, f"vocabulary {config.vocabulary}")
    for dataset in cfg.DATASETS.TRAIN:
        names = MetadataCatalog.get(dataset).get("thing_classes")
        if names is not None:
            return check_length(names, num_classes, f"Detectron2's data set {dataset}")
    raise ValueError(
        f"extractor.model={config.model!r} comes with no label names; set extractor.vocabulary to their file"
    )
