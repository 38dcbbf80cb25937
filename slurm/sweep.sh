#!/bin/bash
# Submits a study: an array of cells for each level and kind of machine, each after what it starts from.
#
#   sbatch slurm/sweep.sh STUDY [key=value ...] [--retry-failed] [--dry-run]      or:  bash slurm/sweep.sh ...
#
# What the site needs (partition, account, GPUs, modules) stands in configs/hardware/*.yaml. Run it again at any time:
# what is done or queued is not queued again. Then: synthmix status STUDY --watch, synthmix cancel STUDY.
# Python: $SYNTHMIX_PYTHON, else .venv/bin/python here, else python3.
#SBATCH --job-name=synthmix-sweep
#SBATCH --ntasks=1
#SBATCH --time=00:30:00
#SBATCH --output=synthmix-sweep.%j.out
set -euo pipefail

# sbatch copies this file: a job finds its surroundings where it was submitted
cd "${SLURM_SUBMIT_DIR:-$PWD}"
python=${SYNTHMIX_PYTHON:-}
if [ -z "$python" ]; then
  if [ -x .venv/bin/python ]; then python=$PWD/.venv/bin/python; else python=python3; fi
fi
if [ $# -eq 0 ]; then
  echo "usage: sbatch slurm/sweep.sh STUDY [key=value ...] [--retry-failed] [--dry-run]" >&2
  exit 2
fi
exec "$python" -m synthmix.cli submit "$@"
