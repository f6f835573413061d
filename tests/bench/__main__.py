"""Speed and size as ratios against peers measured in the same run: python -m tests.bench [NAME ...]

A figure is CPU time, not wall time, so that a busy machine disturbs it less; still, only ratios are worth quoting.
Nothing here is asserted. One figure is one line: what, value, and what it was compared with.
"""

from __future__ import annotations

import os
import sys

from tests.bench import (
    class_scores,
    commands,
    download,
    encoding,
    extract,
    flow,
    loader,
    pipeline,
    scoring,
    step,
    text,
    uniter,
)

BENCHES = {
    "loader": loader.run,
    "text": text.run,
    "sqrt8": encoding.run,
    "class_scores": class_scores.run,
    "step": step.run,
    "uniter": uniter.run,
    "scoring": scoring.run,
    "download": download.run,
    "extract": extract.run,
    "pipeline": pipeline.run,
    "flow": flow.run,
    "commands": commands.run,
}


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - set(BENCHES))
    if unknown:
        print(f"there is no bench {unknown[0]!r}; known are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    for name in names or BENCHES:
        for line in BENCHES[name]():
            print(f"{name:<9} {line}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
