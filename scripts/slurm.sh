#!/usr/bin/env bash
# A pod under SLURM: sbatch --nodes=4 --time=24:00:00 scripts/slurm.sh --config=... --workdir=/shared/runs
#
# From the project's folder, on a disk that all nodes share; sbatch's own flags, such as --gpus-per-node=4, come first.
# One process a node, which takes all its GPUs. When a process is gone, all start again where they are; when a node is
# gone, SLURM queues the job again; two minutes before the time limit all stop after a checkpoint, and it is queued again.
#SBATCH --job-name=ssoup
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

srun --kill-on-bad-exit=1 scripts/again.sh python launch.py --distributed=slurm "$@" &
step=$!
# The limit is told to this script alone, by a signal of its own: SIGTERM comes from scancel, too, and from srun, which
# ends the other processes when one has failed for good. Neither is to be queued again.
limit=
trap 'limit=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1 # to all processes: srun itself would kill them
while :; do
    wait "$step"
    code=$?
    kill -0 "$step" 2>/dev/null || break # a signal ends the wait, not the step
done

if [ -z "$limit" ] || [ "$code" = 0 ] || [ "$code" = 2 ]; then exit "$code"; fi
scontrol requeue "$SLURM_JOB_ID"
