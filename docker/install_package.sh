#!/usr/bin/env bash
# This project, from the working directory, into the environment that install.sh has made.
set -euo pipefail

venv=${VENV:-/opt/venv}

"$venv/bin/uv" pip install --python "$venv/bin/python" --no-cache --no-deps --no-build-isolation --editable .
"$venv/bin/python" -m compileall -q flows tasks model feature_extraction
