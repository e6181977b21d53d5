#!/bin/bash
# A job array over the blocks of a recipe, then one job that verifies, merges and checks them.
#   bash submit.sh RECIPE.yml
# Run it on the login node, in the environment of downscale. Recipes: see ../slurm/blocks.yml (with
# type: dask_jobqueue.PBSCluster for --cluster pbs).
set -euo pipefail
recipe=$(realpath "$1")
last=$(downscale run "$recipe" --resume --dry-run | sed -n 's/.*(--block 0 to \([0-9]*\)).*/\1/p')
command=$(command -v downscale)
folder=$PWD
if [ "${last:-0}" -gt 0 ]; then
  array="-J 0-$last"
else
  array=""
fi
# shellcheck disable=SC2086
blocks=$(qsub $array -N downscale-block -l select=1:ncpus=4:mem=8gb -l walltime=01:00:00 -r y <<JOB
#!/bin/bash
cd "$folder"
exec "$command" run "$recipe" --resume --block "\${PBS_ARRAY_INDEX:-0}" --max-memory 6GB
JOB
)
qsub -W depend="afterok:$blocks" -N downscale-merge -l select=1:ncpus=4:mem=8gb -l walltime=04:00:00 <<JOB
#!/bin/bash
cd "$folder"
exec "$command" run "$recipe" --resume --max-memory 6GB
JOB
