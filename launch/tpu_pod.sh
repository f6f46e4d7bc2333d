#!/usr/bin/env bash
# A Cloud TPU slice from the queue, and one run on all its hosts:
#
#   export ZONE=us-west4-a TYPE=v5litepod-16 RUNTIME=v2-alpha-tpuv5-lite BUCKET=my-bucket
#   launch/tpu_pod.sh create  halp           # asks for it, waits until it is there (SPOT=1; SLICES=2)
#   launch/tpu_pod.sh install halp           # this checkout, its requirements; BUCKET at ~/halp/storage
#   launch/tpu_pod.sh run     halp python -m halp_jax.train --config=configs/halp.py:ntu60_xsub \
#       --workdir=storage/runs/halp --config.data.dir=storage/data/ntu60 \
#       --config.cluster.coordinator=auto
#   launch/tpu_pod.sh log     halp           # what the first host says; Ctrl-C leaves the run alone
#   launch/tpu_pod.sh stop    halp           # the run saves and ends; `run` resumes
#   launch/tpu_pod.sh delete  halp
#
# A run resumes without this terminal, and starts again by itself unless it ends with an error. A slice
# that is taken away is deleted and created anew; the same commands then resume from the bucket.
#
# A sweep, in turn on one slice: all hosts train, then the first evaluates on its processors:
#
#   launch/tpu_pod.sh run   halp python -m halp_jax.sweep ... --evaluate= --show
#   launch/tpu_pod.sh first halp python -m halp_jax.sweep ...        (without --evaluate= and --show)
#
# or a slice for each member: create halp-3, ..., run halp-3 ... with --member=3 besides.
set -euo pipefail

action=${1-} name=${2-}
if [[ ! $action =~ ^(create|install|run|log|stop|first|delete)$ || -z $name ]]; then
    sed -n '2,25s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
shift 2
: "${ZONE:?export ZONE, for example us-west4-a}"

resource() { # ACTION [OPTION...]
    gcloud compute tpus queued-resources "$1" "$name" --zone="$ZONE" "${@:2}"
}

on_all() { # COMMAND
    resource ssh --node=all --worker=all --command="$1"
}

case $action in
create)
    options=(--accelerator-type="${TYPE:?export TYPE, for example v5litepod-16}")
    options+=(--runtime-version="${RUNTIME:?export RUNTIME, for example v2-alpha-tpuv5-lite}")
    if ((${SLICES:-1} > 1)); then
        options+=(--node-count="$SLICES" --node-prefix="$name")
    else
        options+=(--node-id="$name")
    fi
    [[ -z ${SPOT-} ]] || options+=(--spot)
    resource create "${options[@]}"
    until [[ ${state-} == ACTIVE ]]; do
        sleep "${POLL:-30}"
        state=$(resource describe --format="value(state.state)")
        echo "$name: $state"
        if [[ $state =~ ^(FAILED|SUSPENDED)$ ]]; then
            echo "error: $name is $state; delete it and create it again" >&2
            exit 1
        fi
    done
    ;;
install)
    archive=$(mktemp --suffix=.tar.gz)
    trap 'rm -f "$archive"' EXIT
    git -C "$(dirname "$0")/.." archive --format=tar.gz --output="$archive" HEAD
    gcloud compute tpus queued-resources scp "$archive" "$name:halp.tar.gz" \
        --zone="$ZONE" --node=all --worker=all
    on_all "set -e; mkdir -p halp/storage; tar -xzf halp.tar.gz -C halp; cd halp
        python3 -m pip install -q --user uv # the machines' own Python is too old
        python3 -m uv venv -q --allow-existing --python 3.12
        python3 -m uv pip install -q -r requirements-tpu.txt
        mountpoint -q storage || gcsfuse --implicit-dirs '${BUCKET:?export BUCKET, for data and runs}' storage"
    ;;
run)
    # systemd keeps it running: again after 143 and crashes, not after 0 and 1 (an error).
    on_all "cd halp && sudo systemd-run --unit=halp --collect --uid=\$(id -u) --gid=\$(id -g) \
        --working-directory=\$PWD --setenv=PATH=\$PWD/.venv/bin:\$PATH --setenv=HOME=\$HOME \
        -p Restart=on-failure -p RestartPreventExitStatus=1 -p RestartSec=10 \
        -p StartLimitIntervalSec=0 -p TimeoutStopSec=300 -p LimitMEMLOCK=infinity -- ${*@Q}"
    ;;
log)
    resource ssh --command="journalctl --unit=halp --follow --lines=50 --output=cat"
    ;;
stop)
    on_all "sudo systemctl stop halp"
    ;;
first)
    resource ssh --command="cd halp && PATH=\$PWD/.venv/bin:\$PATH JAX_PLATFORMS=cpu ${*@Q}"
    ;;
delete)
    resource delete --force --quiet
    ;;
esac
