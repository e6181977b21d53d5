#!/bin/bash
# A job array over the files of an archive.   bash 06_process_archive.sh "archive/tas_*.nc" OUT_FOLDER
# Submit it again after a failure: finished files that verify are kept.
set -euo pipefail
here=$(realpath "$(dirname "$0")")
mkdir -p "$2"
count=$(python "$here/06_process_archive.py" "$1" --count)
sbatch --array="0-$((count - 1))%50" --requeue --signal=TERM@120 --cpus-per-task=4 --mem=8G --time=02:00:00 \
    --output=downscale-archive-%A_%a.log \
    --wrap "srun python '$here/06_process_archive.py' '$1' --task \$SLURM_ARRAY_TASK_ID --out '$2'"
