#!/bin/bash
#SBATCH --job-name=search-worker --time=04:00:00 --array=1-4
#SBATCH --gpus=1 --cpus-per-task=8 --partition=preempt
#SBATCH --requeue --open-mode=append --signal=B:USR1@60

source settings.sh
trap 'wait; exit' TERM
trap 'scontrol requeue $SLURM_JOB_ID' USR1
while true; do
    dask worker --scheduler-file scheduler.json --no-nanny --no-dashboard --nthreads 1 --death-timeout 60 \
        --local-directory "$(mktemp -d)" &
    wait
done
