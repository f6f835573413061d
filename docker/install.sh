#!/usr/bin/env bash
# Everything pinned, in a virtual environment: install.sh cuda|cpu TORCH_INDEX DETECTRON2 KUBERNETES (0 or 1 each)
#
# The lists are complete, so nothing is resolved (--no-deps) and a missing pin is an error at import, not a surprise.
# VENV names another place than the image's; with DRY_RUN=1 it is only said what would be installed.
set -euo pipefail

accelerator=$1
torch_index=$2
detectron2=$3
kubernetes=$4
venv=${VENV:-/opt/venv}
lists=$(mktemp -d)
trap 'rm -rf "$lists"' EXIT

python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --no-cache-dir uv==0.13.8
# Nobody can write bytecode in the image, and Prefect without it takes seconds longer to import.
install=("$venv/bin/uv" pip install --python "$venv/bin/python" --no-cache --no-deps --compile-bytecode)
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

if [ "$detectron2" = 1 ]; then
  "${install[@]}" --requirement docker/detectron2.txt
  # Its build reads the installed torch. Without nvcc it compiles for the CPU: of its operators (deformable convolutions,
  # rotated boxes, COCO's scores) we use none, and RoI pooling and NMS are torchvision's, which has them for GPUs.
  source=$(grep -oE 'detectron2 @ git\+https://[^"]+@[0-9a-f]{40}' pyproject.toml)
  PATH="$venv/bin:$PATH" "${install[@]}" --no-build-isolation "$source"
fi
if [ "$kubernetes" = 1 ]; then
  "${install[@]}" --requirement docker/kubernetes.txt
fi
