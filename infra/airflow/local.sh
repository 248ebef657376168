#!/usr/bin/env bash
# A local Airflow with the DAGs, everything on loopback: `make airflow`. Ctrl-C stops all of it.
#
#   AIRFLOW_HOME        its files (.airflow)
#   AIRFLOW_DB          sqlite, or postgres: a server of its own below AIRFLOW_HOME, or AIRFLOW_DB_URL
#   AIRFLOW_DB_URL      such as postgresql+psycopg2://user:password@127.0.0.1/airflow
#   AIRFLOW_PORT, MLFLOW_PORT, RUNS_PORT, POSTGRES_PORT    where each answers (8080 5000 8088 5433)
#   PERSCEN_DEPLOYMENT  where steps run and their files lie (infra/deployment.yaml)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
if [ -x .venv/bin/airflow ]; then PATH=$root/.venv/bin:$PATH; fi

home=${AIRFLOW_HOME:-.airflow}
airflow_port=${AIRFLOW_PORT:-8080}
mlflow_port=${MLFLOW_PORT:-5000}
runs_port=${RUNS_PORT:-8088}
postgres_port=${POSTGRES_PORT:-5433}
url=http://127.0.0.1:$airflow_port

fail() { printf 'airflow: %s\n' "$@" >&2; exit 1; }

need_port() { # PORT VARIABLE
  if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then
    fail "port $1 is in use; choose another with $2=PORT"
  fi
}

names=() pids=()
start() { # NAME COMMAND...
  local name=$1
  shift
  # Out of reach of the terminal's Ctrl-C: a scheduler that is told twice never ends.
  setsid "$@" >"$home/$name.log" 2>&1 </dev/null &
  names+=("$name") pids+=($!)
}

stop() {
  trap - EXIT
  trap '' INT TERM
  if [ ${#pids[@]} -gt 0 ]; then
    echo "Stopping ..."
    kill -TERM "${pids[@]}" 2>/dev/null || true
    # Running tasks would be waited for; a step whose parent is gone stops by itself, in good order.
    for ((waited = 0; waited < 30; waited++)); do
      kill -0 "${pids[@]}" 2>/dev/null || break
      sleep 1
    done
    for pid in "${pids[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
  fi
  if [ -n "${postgres_data:-}" ]; then
    as_postgres "$postgres_bin/pg_ctl" --pgdata "$postgres_data" --mode fast --silent stop || true
  fi
}

as_postgres() { # PostgreSQL's server refuses to run as root.
  if [ "$(id -u)" = 0 ]; then
    (cd / && PATH="$PATH:/usr/sbin" runuser --user postgres -- "$@") # root without root's PATH
  else
    "$@"
  fi
}

start_postgres() {
  local initdb
  initdb=$(command -v initdb || find /usr/lib/postgresql/*/bin -name initdb 2>/dev/null | sort -V | tail -1)
  [ -n "$initdb" ] || fail "no PostgreSQL server found" \
    "install one (Debian: apt-get install postgresql), or name yours in AIRFLOW_DB_URL"
  postgres_bin=$(dirname "$(readlink -f "$initdb")")
  need_port "$postgres_port" POSTGRES_PORT
  local data=$home/postgres password=$home/postgres.password
  if [ ! -s "$data/PG_VERSION" ]; then
    (umask 077 && python -c 'import secrets; print(secrets.token_hex(24))' >"$password")
    mkdir -p "$data"
    if [ "$(id -u)" = 0 ]; then chown postgres "$data" "$password"; fi
    as_postgres "$postgres_bin/initdb" --pgdata "$data" --encoding UTF8 --locale C --auth scram-sha-256 \
      --username airflow --pwfile "$password" >"$home/initdb.log" 2>&1 \
      || fail "PostgreSQL could not be set up in $data:" "$(tail -5 "$home/initdb.log")"
  fi
  as_postgres "$postgres_bin/pg_ctl" --pgdata "$data" --silent --wait --log "$data/server.log" \
    --options "-p $postgres_port -c listen_addresses=127.0.0.1 -c unix_socket_directories=''" start \
    || fail "PostgreSQL did not start; see $data/server.log"
  postgres_data=$data
  AIRFLOW_DB_URL=postgresql+psycopg2://airflow:$(cat "$password")@127.0.0.1:$postgres_port/postgres
}

# What the DAGs read: the deployment, with the addresses below in its links.
write_deployment() {
  python - "$home/deployment.yaml" "http://127.0.0.1:$runs_port" "http://127.0.0.1:$mlflow_port" <<'PYTHON'
import sys

import yaml

from dags._deployment import read_deployment

path, runs_url, mlflow_url = sys.argv[1:]
deployment = read_deployment()
run_root, raw_log = deployment.absolute(deployment.run_root), deployment.absolute(deployment.raw_log)
tracking = deployment.environment.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
settings = deployment.model_dump(mode="json", exclude_unset=True)
settings.setdefault("mlflow_url", tracking if tracking.startswith("http") else mlflow_url)
if "://" not in run_root:
    settings.setdefault("runs_url", runs_url)
with open(path, "w") as file:
    yaml.safe_dump(settings, file, sort_keys=False)
print(run_root, raw_log, tracking, sep="\t")
PYTHON
}

healthy() {
  python - "$url/api/v2/monitor/health" <<'PYTHON' 2>/dev/null
import json, sys, urllib.request

parts = json.load(urllib.request.urlopen(sys.argv[1], timeout=20))
sys.exit(any(part["status"] != "healthy" for part in parts.values()))
PYTHON
}

check_alive() {
  local i
  for i in "${!pids[@]}"; do
    kill -0 "${pids[$i]}" 2>/dev/null \
      || fail "${names[$i]} has ended; the end of $home/${names[$i]}.log:" "$(tail -20 "$home/${names[$i]}.log")"
  done
}

mkdir -p "$home"
home=$(cd "$home" && pwd)
need_port "$airflow_port" AIRFLOW_PORT
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

case ${AIRFLOW_DB:-sqlite} in
  sqlite) AIRFLOW_DB_URL="sqlite:///$home/airflow.db?timeout=60" ;; # several processes write it
  postgres) [ -n "${AIRFLOW_DB_URL:-}" ] || start_postgres ;;
  *) fail "AIRFLOW_DB is '$AIRFLOW_DB', expected sqlite or postgres" ;;
esac

export PYTHONPATH=$root
places=$(write_deployment) || fail "the deployment file cannot be used"
IFS=$'\t' read -r run_root raw_log tracking <<<"$places"
export PERSCEN_DEPLOYMENT=$home/deployment.yaml
export AIRFLOW_HOME=$home
export AIRFLOW__API__BASE_URL=$url
export AIRFLOW__API__HOST=127.0.0.1
export AIRFLOW__API__PORT=$airflow_port
export AIRFLOW__API__WORKERS=1
export AIRFLOW__CORE__DAGS_FOLDER=${AIRFLOW__CORE__DAGS_FOLDER:-$root/dags}
export AIRFLOW__CORE__EXECUTION_API_SERVER_URL=$url/execution/
export AIRFLOW__CORE__EXECUTOR=LocalExecutor
export AIRFLOW__CORE__LOAD_EXAMPLES=False
export AIRFLOW__CORE__PARALLELISM=${AIRFLOW__CORE__PARALLELISM:-4}
export AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS=True # whoever reaches this machine's loopback
export AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=$AIRFLOW_DB_URL
export AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=False
export AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT=60 # a task is lost where this machine is too busy for 5 s
export DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false

case $run_root in
  *://*) ;;
  *)
    need_port "$runs_port" RUNS_PORT
    mkdir -p "$run_root"
    start runs python -m http.server "$runs_port" --bind 127.0.0.1 --directory "$run_root"
    ;;
esac
case $tracking in
  http*) ;;
  *)
    need_port "$mlflow_port" MLFLOW_PORT
    start mlflow mlflow server --backend-store-uri "$tracking" --host 127.0.0.1 --port "$mlflow_port" --workers 1
    ;;
esac

echo "Starting Airflow on ${AIRFLOW_DB:-sqlite}; this takes a minute ..."
airflow db migrate >"$home/migrate.log" 2>&1 \
  || fail "the database could not be migrated; the end of $home/migrate.log:" "$(tail -5 "$home/migrate.log")"
# Their log servers would listen on all addresses, and serve files that are read here anyway.
start api-server airflow api-server
start dag-processor airflow dag-processor
start scheduler airflow scheduler --skip-serve-logs
start triggerer airflow triggerer --skip-serve-logs

for ((waited = 0; ; waited += 2)); do
  check_alive
  if healthy; then break; fi
  [ "$waited" -lt "${AIRFLOW_START_TIMEOUT:-300}" ] || fail "not healthy after $waited s; see $home/*.log"
  sleep 2
done
cat <<END
Airflow   $url   (perscen_daily and perscen_refresh are paused until you switch them on)
MLflow    $(sed -n 's/^mlflow_url: //p' "$PERSCEN_DEPLOYMENT")
Runs      $(sed -n 's/^runs_url: //p' "$PERSCEN_DEPLOYMENT")   from $run_root
Raw log   $raw_log
Logs      $home
Ctrl-C stops all of it.
END
wait -n || true
check_alive
