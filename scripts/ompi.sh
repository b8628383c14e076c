#!/usr/bin/env bash
# A pod by Open MPI: scripts/ompi.sh node1,node2 1 --config=... --workdir=/shared/runs
#
# The hosts, on all of which this folder is at the same place, and how many processes each runs: one takes all GPUs of
# its host. When a process is gone, all start again. Ctrl-C or SIGTERM stops all after a checkpoint.
set -eu
hosts=$1 each=$2
shift 2
cd "$(dirname "$0")/.."

# mpirun would kill a second after SIGTERM what is still writing its checkpoint; versions 4 and 5 spell it differently.
export OMPI_MCA_odls_base_sigkill_timeout=15 PRTE_MCA_odls_base_sigkill_timeout=15
# Unbound, or each process would compute and decode on a single core. What fails starts again by itself, before mpirun
# could make an exit code of its own of it.
exec mpirun --host "${hosts//,/:$each,}:$each" --map-by "ppr:$each:node" --bind-to none \
    scripts/again.sh python launch.py --distributed=ompi "$@"
