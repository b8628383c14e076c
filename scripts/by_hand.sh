#!/usr/bin/env bash
# A pod by hand, this command on every host: scripts/by_hand.sh node1:61440 2 0 --config=... --workdir=/shared/runs
#
# The address is that of process 0; then how many processes there are, and which this is, from 0.
set -eu
coordinator=$1 processes=$2 process=$3
shift 3
cd "$(dirname "$0")/.."

exec scripts/again.sh python launch.py --distributed=auto \
    --coordinator="$coordinator" --num_processes="$processes" --process_id="$process" "$@"
