"""Prefect's own worker, in the process that `flows.operate.worker` stops without loss.

    python -m flows.operate.worker_process worker start --pool unicoder-vl

Everything but the module's name is what `prefect` takes.
"""

from __future__ import annotations

import runpy
import sys


def main() -> None:
    try:
        from flows.operate.lasting import outlast_outages
    except ImportError as error:
        print(f"this Prefect's worker does not outlast a server that is away ({error})", file=sys.stderr)
    else:
        outlast_outages()
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
