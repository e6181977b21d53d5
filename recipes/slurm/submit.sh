#!/bin/bash
# A job array over the blocks of a recipe, then one job that verifies, merges and checks them.
#   bash submit.sh RECIPE.yml
# Run it on the login node, in the environment of downscale. Submit it again after a failure: finished
# blocks that verify are kept.
set -euo pipefail
recipe=$(realpath "$1")
here=$(realpath "$(dirname "$0")")
last=$(downscale run "$recipe" --resume --dry-run | sed -n 's/.*(--block 0 to \([0-9]*\)).*/\1/p')
blocks=$(sbatch --parsable --array="0-${last:-0}%50" "$here/block.sbatch" "$recipe")
sbatch --dependency="afterok:${blocks%%;*}" --kill-on-invalid-dep=yes "$here/merge.sbatch" "$recipe"
