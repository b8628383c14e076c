#!/usr/bin/env bash
# Starts a process of a pod again when it ends because another is gone: scripts/again.sh python launch.py ...
#
# For pods that no scheduler restarts: every host runs this, all processes end when one does, and they meet again. It
# stops when the run is done (0), cannot work (2) or was asked to stop (129, 130, 143).
set -mu  # each command is a process group of its own, which gets the signals that are passed on
tries=${AGAIN_TRIES:-20}
pause=${AGAIN_SECONDS:-10}

for ((try = 1; ; try++)); do
    "$@" &
    child=$!
    # shellcheck disable=SC2064 # the child of now is meant
    for name in TERM INT HUP; do trap "kill -$name $child 2>/dev/null" "$name"; done
    while :; do
        wait "$child"
        code=$?
        kill -0 "$child" 2>/dev/null || break # a signal ends the wait, not the process
    done
    case $code in 0 | 2 | 129 | 130 | 143) exit "$code" ;; esac
    if ((try >= tries)); then
        echo "ended with $code for the ${try}th time" >&2
        exit "$code"
    fi
    echo "ended with $code; starts again in $pause s (try $try of $tries)" >&2
    sleep "$pause"
done
