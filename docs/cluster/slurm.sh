#!/bin/bash
# A Ray cluster of the machines of a job, and `bench run` on it: sbatch slurm.sh --suite paper ...
# See docs/cluster.md. Put in your own: partition, time, GPUs, and where the environment lies.
#SBATCH --job-name=bench
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-task=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

source "${BENCH_VENV:-$HOME/venv}/bin/activate"
# Two jobs that share a machine must not share a cluster.
port=$((20000 + SLURM_JOB_ID % 20000))
export RAY_USAGE_STATS_ENABLED=0 RAY_TMPDIR="${RAY_TMPDIR:-/tmp/ray-$SLURM_JOB_ID}"

mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
given=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_PER_TASK:-0}" --block)
first() { srun --nodes=1 --ntasks=1 --overlap --nodelist="${machines[0]}" "$@"; }

# shellcheck disable=SC2016 # to be expanded there
address=$(first bash -c 'hostname -I | cut -d" " -f1')
first ray start --head --node-ip-address="$address" --port="$port" --include-dashboard=false "${given[@]}" &
until first ray health-check --address "$address:$port" 2>/dev/null; do sleep 2; done
for machine in "${machines[@]:1}"; do
  srun --nodes=1 --ntasks=1 --overlap --nodelist="$machine" ray start --address="$address:$port" "${given[@]}" &
done

bench run --executor ray --address "$address:$port" "$@" &
driver=$!
# `--signal=B` tells this script alone. The driver has trainings saved, then ends.
trap 'kill -TERM "$driver"' TERM
code=0
wait "$driver" || code=$?
# A signal ends the first wait before the driver has ended.
if kill -0 "$driver" 2>/dev/null; then
  code=0
  wait "$driver" || code=$?
fi
kill $(jobs -p) 2>/dev/null || true
wait || true
exit "$code"
