"""VL-BERT's recipes (arXiv:1908.08530): what its program was run with, by its published configs."""

from __future__ import annotations

from feature_extraction.config import ExtractorConfig
from flows.params.datasets import FLICKR30K
from flows.params.experiment import RebuildParams
from model.config import OptimConfig
from model.downstream.retrieval.config import FinetuneConfig, ScoringConfig
from model.families.vl_bert_config import VLBertConfig
from model.objectives.config import PretrainConfig, RegionMasking, WordMasking
from tasks.config import DatasetConfig, TextDatasetConfig

_BASE, _LARGE = "bert-base-uncased", "bert-large-uncased"
_ROWS = 256
"""Of a step: pairs, or half of them pairs and half text."""
_DEVICE_ROWS = 64
"""Of these on one GPU."""
_TEN_EPOCHS = 250_000
"""Steps of ten epochs of 3,200,000 pairs, 128 at a time."""


def optimiser(learning_rate: float, warmup_share: float, max_grad_norm: float) -> OptimConfig:
    """Its optimiser: AdamW with eps before bias correction, and decay of every weight, after the update."""
    return OptimConfig(
        learning_rate=learning_rate,
        eps=1e-6,
        eps_at="uncorrected",
        weight_decay=1e-4,
        decay_at="after",
        decays="all",
        warmup_share=warmup_share,
        schedule="from_one",
        max_grad_norm=max_grad_norm,
    )


def vl_bert_base(root_uri: str) -> RebuildParams:
    """VL-BERT-base on Conceptual Captions and on text alone, then retrieval.

    Expects what `unicoder_vl_v3` does, the Visual Genome detector, faster_rcnn_from_caffe.pkl and objects_vocab.txt,
    and the program's two files of text, a passage a line: bc1g.doc, of BooksCorpus, and wiki.doc. The rate is 1e-7 a
    row of the batch, as its configs say. Open are: which pictures it had, since 10 epochs of 128 pairs came out as
    about 250,000 steps; its regions, which came from a detector in Caffe with max pooling, and which it sorts by the
    likeliest of all classes, background included; and all of the retrieval, which it was never finetuned for: that is
    Unicoder-VL's third version with VL-BERT's optimiser. A random word piece is none of the special ones here.
    """
    return _after_conceptual_captions(root_uri, VLBertConfig(bert=_BASE), _BASE)


def vl_bert_base_no_text(root_uri: str) -> RebuildParams:
    """VL-BERT-base on Conceptual Captions alone: twice the pairs a step, and half the steps of warm-up."""
    base = vl_bert_base(root_uri)
    pretrain = base.pretrain.model_copy(
        update={
            "steps": _TEN_EPOCHS // 2,
            "batch_size": _ROWS,
            "device_batch_size": _DEVICE_ROWS,
            "optim": _pretraining_optimiser(8_000 / (_TEN_EPOCHS // 2)),
            "objectives": {"mlm": 1.0, "mvrc": 1.0},
        }
    )
    return base.model_copy(update={"pretrain": pretrain, "text_dataset": None})


def vl_bert_large(root_uri: str) -> RebuildParams:
    """VL-BERT-large: the same with the sizes, words and weights of BERT-large."""
    encoder = VLBertConfig(bert=_LARGE, hidden_size=1024, num_layers=24, num_heads=16, intermediate_size=4096)
    return _after_conceptual_captions(root_uri, encoder, _LARGE)


def _pretraining_optimiser(warmup_share: float) -> OptimConfig:
    return optimiser(1e-7 * _ROWS, warmup_share, max_grad_norm=10.0)


def _after_conceptual_captions(root_uri: str, encoder: VLBertConfig, bert: str) -> RebuildParams:
    finetune = FinetuneConfig(
        batch_size=192,
        optim=optimiser(2e-5, warmup_share=0.1, max_grad_norm=1.0),
        score="sigmoid",
        margin=0.2,
        validation_steps=1_000,
        validation_images=200,
        keep_best="validation_recall_sum",
        precision="bf16",
    )
    return RebuildParams(
        root_uri=root_uri,
        pretraining_dataset=DatasetConfig(
            name="cc3m",
            splits={"train": "Train_GCC-training.tsv", "val": "Validation_GCC-1.1.0-Validation.tsv"},
        ),
        text_dataset=TextDatasetConfig(name="books-wiki", splits={"train": ("bc1g.doc", "wiki.doc")}),
        retrieval_dataset=FLICKR30K.dataset,
        extractor=ExtractorConfig(
            model="vg-r101-c4",
            weights="faster_rcnn_from_caffe.pkl",
            vocabulary="objects_vocab.txt",
            selection="maxconf",
            box="proposal",
            nms_threshold=0.3,
            min_score=0.5,
            min_regions=10,
            class_scores="all",
        ),
        vocabulary_path=f"{bert}/vocab.txt",
        encoder=encoder,
        pretrain=PretrainConfig(
            steps=_TEN_EPOCHS,
            batch_size=_ROWS // 2,
            device_batch_size=_DEVICE_ROWS // 2,
            optim=_pretraining_optimiser(16_000 / _TEN_EPOCHS),
            objectives={"mlm": 1.0, "mvrc": 1.0, "mlm-text": 1.0},
            word_masking=WordMasking(mask_share=0.8, random_share=0.1, at_least_one=False, whole_words=True),
            region_masking=RegionMasking(rate=0.15, zero_share=0.9),
            joint_length=64,
            matching="none",
            validation_steps=5_000,
            precision="bf16",
        ),
        finetune=finetune,
        task_specific=finetune.model_copy(update={"start": "scratch"}),
        scoring=ScoringConfig(precision="bf16", protocols=FLICKR30K.protocols),
    )
