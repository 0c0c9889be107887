#!/usr/bin/env bash
# A sweep as one Slurm job: Ray on all its nodes, the driver on the first, in a Python environment that all nodes see.
#
#   cp cluster/raydd.env.example cluster/raydd.env      # RAYDD_STORE=/a/folder/all/nodes/see and Ray's token
#   sbatch cluster/slurm.sh                             # searches what cluster/sweep.yaml says
#   sbatch cluster/slurm.sh --sweep.trials 200
#
# Run it from the root of the checkout, in an environment with `pip install -e ".[demo,cluster]"`. A job that reaches
# its time limit gets a signal two minutes before and saves its work; submit it again to continue. Fill in the lines
# marked SET.
#SBATCH --job-name=raydd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --mem=0
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --output=raydd-%j.log
# SET: your --partition and --account
set -euo pipefail

set -a
. cluster/raydd.env
set +a
# SQLite is not meant for a network drive, so the home is a local folder; copies of the databases lie next to the store.
# Each job has its own home, since files that an earlier job left on a node are older than the copies. mkdir refuses a
# folder that exists already, since it may be somebody else's.
own=""
if [ -z "${RAYDD_HOME:-}" ]; then
  own=/tmp/raydd-$USER-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}
  srun --ntasks-per-node=1 mkdir -m 700 "$own"
  export RAYDD_HOME=$own
fi
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # Slurm 22.05 to 23.02 does not pass it on to srun
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600 # seconds for all nodes to join; Ray's 30 are few on a network drive
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p) # sed reads all lines; head would break the pipe

# On SIGTERM, Ray would end at once, and the job step with it. So only this script gets the signal (B: above) and passes
# it on to the sweep alone: the sweep saves its work, head.py makes its last copy, and Ray ends after them.
rm -f "$RAYDD_HOME/run.pid" "$RAYDD_HOME/began"
tell() {
  told=1
  kill -TERM "$(cat "$RAYDD_HOME/run.pid" 2>/dev/null || echo "$step")" || true
}
srun --ntasks-per-node=1 ray symmetric-run --address "$first:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --include-dashboard=false \
  -- bash -c 'touch "$RAYDD_HOME/began" && exec "$@"' began \
  python cluster/head.py run raydd sweep --config cluster/sweep.yaml "$@" &
step=$!
trap tell TERM
while :; do
  told="" status=0
  wait "$step" || status=$?
  [ -n "$told" ] || break # a signal ends only the wait, not the step
done
if [ -n "$own" ]; then
  srun --ntasks-per-node=1 rm -rf "$own/cache" || true # each node's cached files of a bucket, which no job reads again
fi
if [ "$status" -eq 0 ] && ! [ -f "$RAYDD_HOME/began" ]; then # Ray has reported why, but its exit status is 0
  echo "Ray did not start, so no sweep ran. The lines above say why." >&2
  status=1
fi
exit "$status"
