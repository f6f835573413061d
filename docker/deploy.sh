#!/usr/bin/env bash
# Registers the work pool and every deployment of prefect.yaml with the server. Running it again changes nothing.
set -euo pipefail

cd "$UNICODER_VL_HOME"
prefect --no-prompt work-pool create unicoder-vl --type process --overwrite
prefect --no-prompt deploy --all
