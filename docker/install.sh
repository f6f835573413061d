#!/usr/bin/env bash
# The pinned requirements, in a virtual environment: install.sh cuda|cpu [TORCH_INDEX]
#
# The list is complete, so nothing is resolved (--no-deps) and a missing pin is an error at import, not a surprise.
# VENV names another place than the image's; with DRY_RUN=1 it is only said what would be installed.
set -euo pipefail

accelerator=$1
torch_index=${2:-}
venv=${VENV:-/opt/venv}
lists=$(mktemp -d)
trap 'rm -rf "$lists"' EXIT

python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet uv==0.13.8
install=("$venv/bin/uv" pip install --python "$venv/bin/python" --no-cache --no-deps)
if [ "${DRY_RUN:-0}" = 1 ]; then install+=(--dry-run); fi

case $accelerator in
  cuda)
    "${install[@]}" --requirement requirements.txt
    ;;
  cpu)
    if [ -z "$torch_index" ]; then
      echo "ACCELERATOR=cpu needs TORCH_INDEX, the index of torch's CPU builds; ACCELERATOR=cuda runs on a CPU too" >&2
      exit 1
    fi
    # That index has its own copies of common packages: only torch's two come from there.
    grep -E '^(torch|torchvision)==' requirements.txt >"$lists/torch.txt"
    grep -Ev '^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==' requirements.txt >"$lists/others.txt"
    "${install[@]}" --index-url "$torch_index" --requirement "$lists/torch.txt"
    "${install[@]}" --requirement "$lists/others.txt"
    ;;
  *)
    echo "ACCELERATOR=$accelerator is unknown; expected cuda or cpu" >&2
    exit 1
    ;;
esac
