#!/usr/bin/env bash
# A run on a Slurm cluster: Ray for the time of the job, and the job again and again until the run has ended.
#
#   sbatch cluster/cloud/slurm.sh         from the checkout, on a file system that all nodes share
#   tail -f slurm-JOBID.out
#   scancel JOBID
#
# Before the time is over, the run writes a checkpoint, and Slurm puts the job into the queue again, where it resumes.
# docs/clusters.md goes through it step by step. Fill in what is in capitals.

#SBATCH --job-name=bulkformer
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --mem=0
# whole nodes: at its end, `ray symmetric-run` ends all processes of Ray of the same user
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# USR1 to this script, 15 minutes before the end
#SBATCH --signal=B:USR1@900

set -euo pipefail

# Here, and nowhere else, are the bucket and MLflow named: a job reads BULKFORMER_CORPUS and BULKFORMER_STORAGE where it
# is given no --corpus and --storage. A folder that all nodes share does as well as a bucket.
export BULKFORMER_CORPUS=s3://BUCKET/corpus
export BULKFORMER_STORAGE=s3://BUCKET/runs
export MLFLOW_TRACKING_URI=https://MLFLOW
export AWS_REGION=us-east-1
# Keys of the bucket, if nodes have no role, belong into ~/.aws/credentials.

# made by `make install` in the checkout, with the versions of constraints.txt
# shellcheck source=/dev/null
source .venv/bin/activate

# The token without which nobody uses the cluster, other users of its nodes included. The home folder is shared.
ray get-auth-token --generate > /dev/null
export RAY_AUTH_MODE=token
export RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265
export RAY_USAGE_STATS_ENABLED=0
# seconds that a run has for its last checkpoint when it is stopped: less than the 900 above
export RAY_JOB_STOP_WAIT_TIME_S=600
# seconds until all nodes have to be there
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

# this script runs on the first node, which becomes Ray's head
# (its first address; put the one of the fast network here, if the nodes have several)
head=$(hostname --all-ip-addresses | cut --delimiter=' ' --fields=1)
job="slurm-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"

# Runs when USR1 comes: the run is asked to end, which it does after a checkpoint.
requeue() {
    echo "the time is nearly over: checkpoint, then into the queue again"
    ray job stop "$job" || true
    wait "$training" || true
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
trap requeue USR1

# in the background, since bash answers signals only between commands and in `wait`
srun --kill-on-bad-exit=1 ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus=8 -- \
    python -m cluster submit --name "$job" -- python -m pretrain run --name first \
        --model.size 37M --workers.count 16 --workers.gpu --precision bf16 &
training=$!
wait "$training"
