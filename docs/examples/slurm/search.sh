#!/bin/bash
#SBATCH --job-name=search --time=24:00:00 --cpus-per-task=2
#SBATCH --requeue --open-mode=append --signal=B:USR1@120

source settings.sh
trap 'wait; exit' TERM                                              # cancelled or preempted
trap 'kill -TERM $run; wait $run; scontrol requeue $SLURM_JOB_ID; exit' USR1    # 120 s before the time limit
dask scheduler --protocol tls --port 0 --scheduler-file scheduler.json --dashboard-address 127.0.0.1:0 &
scheduler=$!
evo-tune run mytask.py --name night --trials 200 --backend dask --scheduler-file scheduler.json --slots 4 &
run=$!
wait $run
kill $scheduler
scancel --name search-worker --me
