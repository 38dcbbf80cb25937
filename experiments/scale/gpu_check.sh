#!/usr/bin/env bash
# What only a GPU can show, in parts of under ten minutes that write one JSON each:
#
#   bash experiments/scale/gpu_check.sh [PART ...]      all parts, or these; what has been measured is left alone
#   bash experiments/scale/gpu_check.sh --toy           the same at toy size on a CPU
#   bash experiments/scale/gpu_check.sh --help          parts and options
#
# Needs no network and no data. Python: $PYTHON, else python3; packages that are not installed are found in PYTHONPATH.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$(dirname "$here")")
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec "${PYTHON:-python3}" "$here/check.py" "$@"
