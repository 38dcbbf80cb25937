#!/bin/bash
# One cell of a sweep, on one task a device: array task I runs line I of its array's list. sbatch gets it from sweep.sh.
#
#   cell.sh SUBMISSION ARRAY
set -euo pipefail
submission=$1 array=$2

# modules, setup, and the site's SRUN, CONTAINER and PYTHON
# shellcheck source=/dev/null
source "$submission/$array.sh"

export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1} OMP_WAIT_POLICY=passive
export SYNTHMIX_LOG="$submission/logs/$SLURM_JOB_NAME.${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID.out"

# The signal that says "save, time is up" would kill a Python that has no handler yet: it is held back until there is one.
hold=(env --block-signal=USR1)
"${hold[@]}" true 2>/dev/null || hold=()

# exec: the cell's exit status is the job's, and nothing here is in the way of its signals.
# srun does not take --cpus-per-task over from sbatch.
exec srun --kill-on-bad-exit=1 --cpus-per-task="$OMP_NUM_THREADS" ${SRUN[@]+"${SRUN[@]}"} \
  ${hold[@]+"${hold[@]}"} ${CONTAINER[@]+"${CONTAINER[@]}"} \
  "$PYTHON" -m synthmix.cli cell "$submission/plan.json" --cells "$submission/$array.cells" --index "$SLURM_ARRAY_TASK_ID"
