#!/usr/bin/env bash
# Starts a command as N processes on this machine that form one run: for trying, or one for each GPU.
#
#   launch/local.sh 2 python -m halp_jax.train --config=configs/demo.py --workdir=runs/two \
#       --config.data.dir=runs/demo/data
#
# Ctrl-C and SIGTERM let the run save and end (twice: at once). When it ends otherwise with its state saved (143), or
# was killed, it is started again, RESTARTS (3) times at most. An error ends it. Of the first process
# that fails the others are given GRACE (150) seconds to notice. CUDA_VISIBLE_DEVICES=0,1 is dealt out.
set -uo pipefail

count=${1-}
if [[ ! $count =~ ^[1-9][0-9]{0,2}$ || $# -lt 2 ]]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    echo "error: give a number of processes from 1 to 999 and a command, not '$*'" >&2
    exit 2
fi
shift
IFS=, read -ra devices <<<"${CUDA_VISIBLE_DEVICES-}"
if ((${#devices[@]} > 0 && ${#devices[@]} < count)); then
    echo "error: $count processes for the ${#devices[@]} devices of CUDA_VISIBLE_DEVICES" >&2
    exit 2
fi
asked=""  # to stop: the next signal to pass on
running=()
trap pass_on INT TERM HUP

pass_on() {  # the second time nobody saves any more
    ((${#running[@]} == 0)) || kill "-${asked:-TERM}" "${running[@]}" 2>/dev/null
    asked=KILL
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

start_all() {
    local port i
    port=$(free_port) || exit 1
    export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$count JAX_PROCESS_ID
    for ((i = 0; i < count; i++)); do
        JAX_PROCESS_ID=$i
        ((${#devices[@]} == 0)) || export CUDA_VISIBLE_DEVICES=${devices[i]}
        if ((i == 0)); then
            "$@" &
        else # what the others say bears their number
            "$@" > >(trap '' INT && exec sed -u "s/^/[$i] /") 2>&1 &
        fi
        running+=($!)
    done
}

# Sets `failed`: the status of the first process that fails, 0 if none does. Of several that end
# within a blink one that was killed comes first: the others fail because of it.
wait_for_all() {
    local pid left status deadline=""
    failed=0
    while ((${#running[@]} > 0)); do
        left=()
        local now=0
        for pid in "${running[@]}"; do
            if kill -0 "$pid" 2>/dev/null; then
                left+=("$pid")
            else
                wait "$pid" 2>/dev/null
                status=$?
                ((status > now)) && now=$status
            fi
        done
        running=("${left[@]}")
        if ((now != 0 && failed == 0)); then
            failed=$now
            deadline=$((SECONDS + ${GRACE:-150}))
        fi
        if [[ -n $deadline ]] && ((SECONDS > deadline && ${#running[@]} > 0)); then
            kill -KILL "${running[@]}" 2>/dev/null
        fi
        ((${#running[@]} == 0)) || sleep 0.2
    done
}

for ((restart = 0; ; restart++)); do
    start_all "$@"
    wait_for_all
    if ((failed <= 128 || restart >= ${RESTARTS:-3})) || [[ -n $asked ]]; then
        exit "$failed"
    fi
    echo "local.sh: ended with status $failed; start $((restart + 1)) of ${RESTARTS:-3} again" >&2
done
