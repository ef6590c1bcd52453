#!/bin/bash
# Written by dlcluster. One text for all trials of this submission: what they are is in the run directory.
# It can be submitted by hand as well:  sbatch FILE
# Unique for each submission: by it the job is found again if the answer of sbatch gets lost.
#SBATCH --job-name=lr-20260101T120000-7f3a9c-000
#SBATCH --comment=dlcluster:lr:20260101T120000-7f3a9c
# This folder and that of the log must exist on the compute node, else the job ends at once and silently.
#SBATCH --chdir=/home/ada/runs/lr
#SBATCH --output=/home/ada/runs/lr/submissions/20260101T120000-7f3a9c/logs/%j.log
# By default a requeued job begins its log anew.
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
# Never a bare number, which would be minutes.
#SBATCH --time=04:00:00
# Said here because a site may have switched it off (JobRequeue=0).
#SBATCH --requeue
# B: to the process of this script, which is the supervisor after `exec`; without it only steps get it.
#SBATCH --signal=B:USR1@120

# An early signal must not kill bash or a Python that is still starting; the supervisor looks at its own clock.
trap '' USR1 TERM
umask 077
# What srun starts in this job gets its whole environment, whatever the submitting shell had exported.
export SLURM_EXPORT_ENV=ALL PYTHONUNBUFFERED=1

# exec: the process that Slurm signals has to be the supervisor itself. SECONDS: how long this job has been running.
exec /home/ada/venv/bin/python -m dlcluster.worker /home/ada/runs/lr --submission x-7f3a9c --elapsed "$SECONDS"
