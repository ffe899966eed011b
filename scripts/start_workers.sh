#!/usr/bin/env bash
# Workers of this machine:
#   scripts/start_workers.sh dev       one worker for both queues, here, until Ctrl-C
#   scripts/start_workers.sh prod      in the background: standard (8 to 2 at once), heavy (4 to 1)
#   scripts/start_workers.sh monitor   Flower on port 5555
#   scripts/start_workers.sh status|stop   those in the background
#
# The broker is CELERY_BROKER_URL's, else our own. PID files are in $RUN_DIR (build/run), logs in $LOG_DIR
# (build/logs), Python is $PYTHON (.venv/bin/python, else python3).
set -euo pipefail
cd "$(dirname "$0")/.."

RUN_DIR=${RUN_DIR:-build/run}
LOG_DIR=${LOG_DIR:-build/logs}
LOGLEVEL=${LOGLEVEL:-info}
PATIENCE=${PATIENCE:-330}
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ ! -x .venv/bin/python ] || PYTHON=.venv/bin/python
fi
NAMES=(standard heavy)

say() { echo "start_workers: $*" >&2; }

celery() { "$PYTHON" -m celery -A saggar.worker "$@"; }

# Before anything is started: a worker without a broker tries for ever, and nobody looks.
check_broker() {
    "$PYTHON" - <<'PYTHON' || exit 69
import sys
from saggar.config import load
from saggar.errors import SaggarError
from saggar.jobs.store import Store
try:
    store = Store.of(load())
    store.counts(())
    store.close()
except SaggarError as exc:
    sys.exit(f"start_workers: {exc}")
PYTHON
}

# The process of a PID file, if it is one of ours and alive: numbers are used again.
running() {
    local pid
    pid=$(cat "$RUN_DIR/$1.pid" 2>/dev/null) || return 1
    tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -q 'saggar\.worker.*worker' || return 1
    echo "$pid"
}

detached() {
    local name=$1 pid deadline=$((SECONDS + 30))
    shift
    if pid=$(running "$name"); then
        say "$name runs already, pid $pid"
        return
    fi
    rm -f "$RUN_DIR/$name.pid"
    celery worker --detach --loglevel="$LOGLEVEL" --hostname="$name@%h" \
        --pidfile="$PWD_RUN/$name.pid" --logfile="$PWD_LOG/$name.log" "$@" >/dev/null
    until pid=$(running "$name"); do
        if [ $SECONDS -ge $deadline ]; then
            say "$name did not come up; see $LOG_DIR/$name.log"
            return 1
        fi
        sleep 0.2
    done
    say "$name, pid $pid, log $LOG_DIR/$name.log"
}

prod() {
    check_broker
    mkdir -p "$RUN_DIR" "$LOG_DIR"
    PWD_RUN=$(cd "$RUN_DIR" && pwd) PWD_LOG=$(cd "$LOG_DIR" && pwd)
    detached standard --queue=code_execution --autoscale=8,2
    detached heavy --queue=code_execution_heavy --autoscale=4,1
}

# SIGTERM: what runs comes to its end first.
stop() {
    local name pid pids=() deadline=$((SECONDS + PATIENCE))
    for name in "${NAMES[@]}"; do
        pid=$(running "$name") || continue
        kill -TERM "$pid"
        pids+=("$pid")
        say "$name, pid $pid, is told to end"
    done
    for pid in "${pids[@]}"; do
        while kill -0 "$pid" 2>/dev/null; do
            if [ $SECONDS -ge $deadline ]; then
                say "pid $pid still works after $PATIENCE s; kill -QUIT $pid hands back what it runs"
                return 1
            fi
            sleep 0.2
        done
    done
    say "none runs"
}

# 3 as of a service that does not run, if none of them does.
status() {
    local name pid code=3
    for name in "${NAMES[@]}"; do
        if pid=$(running "$name"); then
            echo "$name: pid $pid"
            code=0
        else
            echo "$name: does not run"
        fi
    done
    return $code
}

monitor() {
    check_broker
    local words=()
    # Flower stops tasks and shuts workers down for whoever asks.
    if [ -z "${FLOWER_BASIC_AUTH:-}" ]; then
        say "no FLOWER_BASIC_AUTH=user:password: for this machine only"
        words=(--address=127.0.0.1)
    fi
    celery flower --port="${FLOWER_PORT:-5555}" "${words[@]}"
}

case ${1:-} in
    dev)
        check_broker
        exec "$PYTHON" -m celery -A saggar.worker worker --loglevel="$LOGLEVEL" --concurrency=2
        ;;
    prod | stop | status | monitor) "$1" ;;
    *)
        say "wanted dev, prod, monitor, status or stop"
        exit 2
        ;;
esac
