"""A text corpus: lines to shards, shards to pieces, and rows, against a list of lines in memory as VL-BERT's program.

python -m tests.bench.text FOLDER    opens the corpus that `run` made, prints what it took as JSON
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from model.config import TextSource
from model.data.passages import TextCorpus, load_passages
from model.data.text_shards import MIN_WORDS
from model.data.tokenizer import Vocabulary, load_vocabulary
from tasks.config import TextDatasetConfig
from tasks.download.text import make_text
from tasks.storage.root import Root
from tests.bench.clock import cpu_cost, cpu_seconds, run_command

LINES, WORDS_A_LINE, WORDS = 1_000_000, 20, 20_000
ROWS, BATCH, TOKENS = 8_192, 128, 64


def run() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = _write_text(folder)
        begun = cpu_seconds()
        text = TextDatasetConfig(name="wiki", splits={"train": (str(folder / "wiki.txt"),)})
        make_text(Root(str(folder / "root")), text, "train")
        cost = cpu_seconds() - begun
        yield f"download --text, lines of {WORDS_A_LINE} words: {LINES / cost:,.0f} lines/s per core"
        for occasion in ("first, with pieces cut once", "every later one"):
            command = [sys.executable, "-m", "tests.bench.text", str(folder)]
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
            spent = run_command(command, folder / "log.txt", environment, folder)
            took = json.loads((folder / "log.txt").read_text().splitlines()[-1])
            yield (
                f"opening {LINES:,} passages, {occasion}: {took['seconds']:.2f} s, {LINES / spent.cpu_seconds:,.0f} "
                f"passages/s per core; {spent.peak_pss / 1e6:.0f} MB at the peak, {took['table MB']:.0f} MB on disk"
            )
        corpus, vocabulary = _open(folder)

        def read() -> None:
            for step in range(ROWS // BATCH):
                corpus.rows(step)

        ours = cpu_cost(read, 3)
        yield f"TextCorpus.rows, batch {BATCH}: {ROWS / ours:,.0f} rows/s per core"
        vocabulary.tokenizer.no_truncation()

        def tokenise() -> None:
            for first in random.Random(0).choices(range(LINES), k=ROWS):
                _tokenised_row(lines, first, vocabulary)

        peer = cpu_cost(tokenise, 3)
        yield f"  {peer / ours:.1f} x lines in a list, tokenised at each use ({ROWS / peer:,.0f} rows/s per core)"


def _tokenised_row(lines: list[str], line: int, vocabulary: Vocabulary) -> list[int]:
    pieces: list[int] = []
    words = 0
    while words < MIN_WORDS:
        encoded = vocabulary.tokenizer.encode(lines[line], add_special_tokens=False)
        pieces += encoded.ids
        words += len(set(encoded.word_ids))
        line = (line + 1) % len(lines)
    return pieces[:TOKENS]


def _write_text(folder: Path) -> list[str]:
    """Words of three letters and an ending, of which each second ending is a piece of its own."""
    draw = random.Random(0)
    stems = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=3)) for _ in range(WORDS)]
    pieces = dict.fromkeys([*stems, "##s", "."])
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]) + "\n")
    words = [stem + ending for stem in stems for ending in ("", "s")]
    lines = [" ".join(draw.choices(words, k=WORDS_A_LINE - 1)) + "." for _ in range(LINES)]
    (folder / "wiki.txt").write_text("\n".join(lines) + "\n")
    return lines


def _open(folder: Path) -> tuple[TextCorpus, Vocabulary]:
    vocabulary = load_vocabulary(folder / "vocab.txt")
    path = folder / "root/datasets/wiki/train/text"
    source = TextSource(text_path=str(path), name="wiki/train", cache_path=str(folder / "cache"))
    table = load_passages(source, vocabulary, TOKENS)
    return TextCorpus(table, vocabulary, source.name, 0, BATCH, TOKENS), vocabulary


def main(folder: Path) -> None:
    begun = time.monotonic()
    corpus, _ = _open(folder)
    corpus.rows(0)
    took = {
        "seconds": time.monotonic() - begun,
        "table MB": sum(path.stat().st_size for path in (folder / "cache").glob("*.idx")) / 1e6,
    }
    print(json.dumps(took))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
