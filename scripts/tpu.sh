#!/usr/bin/env bash
# A pod on a TPU slice: scripts/tpu.sh NAME ZONE --config=... --workdir=/shared/runs
#
# On every worker this project lies in ~/ssoup_jax, with what requirements-tpu.txt names installed, and the workdir is on
# a disk that all of them have mounted. It goes on when this machine is gone; when a process is gone, all start again.
set -eu
name=$1 zone=$2
shift 2
run=$(printf ' %q' scripts/again.sh python3 launch.py --distributed=tpu "$@")

gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="cd ssoup_jax || exit; nohup$run >>pod.log 2>&1 </dev/null &"
on_first="gcloud compute tpus tpu-vm ssh $name --zone=$zone --worker=0 --command"
echo "to see it:  $on_first='tail -f ssoup_jax/pod.log'"
echo "to stop it: $on_first='pkill -TERM -f \"^python3 launch\"'"
