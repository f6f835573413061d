#!/usr/bin/env bash
# This project, from the working directory, and Detectron2 where it is asked for: install_package.sh 0|1
set -euo pipefail

venv=${VENV:-/opt/venv}
install=("$venv/bin/uv" pip install --python "$venv/bin/python" --no-cache)

"${install[@]}" --no-deps --no-build-isolation --editable .
if [ "$1" = 1 ]; then
  # Its build reads the installed torch. The constraint keeps every pinned version where it is.
  "${install[@]}" wheel ninja
  "${install[@]}" --no-build-isolation-package detectron2 --constraint requirements.txt '.[detectron2]' --editable .
fi
