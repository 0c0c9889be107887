#!/usr/bin/env bash
# A sweep as one job of Slurm: Ray on all its nodes, the driver on the first, from an environment that all nodes see.
#
#   cp cluster/raydd.env.example cluster/raydd.env      # RAYDD_STORE=/a/folder/all/nodes/see and Ray's token
#   sbatch cluster/slurm.sh                             # searches what cluster/sweep.yaml says
#   sbatch cluster/slurm.sh --sweep.trials 200
#
# Give it from the root of the checkout, in an environment with `pip install -e ".[demo,cluster]"`. A job that reaches
# its time limit is told two minutes before, keeps what it has, and goes on when it is given again. Marked SET: to be
# filled in.
#SBATCH --job-name=raydd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --mem=0
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --output=raydd-%j.log
# SET: --partition and --account of yours
set -euo pipefail

set -a
. cluster/raydd.env
set +a
# SQLite is not for a network drive; its copies lie beside the store. The home is this job's own: what an older job left
# on a node is older than the copies, and a folder that is there already may be somebody else's, so mkdir refuses it.
own=""
if [ -z "${RAYDD_HOME:-}" ]; then
  own=/tmp/raydd-$USER-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}
  srun --ntasks-per-node=1 mkdir -m 700 "$own"
  export RAYDD_HOME=$own
fi
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p) # reads all of it, where head would end scontrol

# Ray ends at once when it is told to, and the step with it. So the script is told (B: above), and tells the sweep alone:
# it keeps what it has, head.py makes its last copy, and Ray ends after them.
rm -f "$RAYDD_HOME/run.pid"
tell() {
  told=1
  kill -TERM "$(cat "$RAYDD_HOME/run.pid" 2>/dev/null || echo "$step")" || true
}
srun --ntasks-per-node=1 ray symmetric-run --address "$first:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --include-dashboard=false \
  -- python cluster/head.py run raydd sweep --config cluster/sweep.yaml "$@" &
step=$!
trap tell TERM
while :; do
  told="" status=0
  wait "$step" || status=$?
  [ -n "$told" ] || break # a signal ends the wait, not the step
done
if [ -n "$own" ]; then
  srun --ntasks-per-node=1 rm -rf "$own/cache" || true # each node's copies of a bucket's files, which no job reads again
fi
exit "$status"
