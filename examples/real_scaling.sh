#!/usr/bin/env bash
# Published studies to a scaling law: 4 sizes x 3 shares of the studies x 2 seeds, over 2,000 genes drawn at random.
#     examples/real_scaling.sh FOLDER
# where FOLDER is that of examples/real_studies.sh, which also says what GENE_ALIASES is. Needs the services of
# `python -m cluster up`. A repeat continues where the last one stopped, also after a kill.
set -euo pipefail
cd "$(dirname "$0")/.."
studies=${1:?usage: examples/real_scaling.sh FOLDER}
. .local/env
place=s3://bulkformer/real-scaling

if ! python -m dataprep inspect $place/corpus; then
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    python - "$scratch/genes.csv" <<'PYTHON'
import csv
import random
import sys

from dataprep.genes.vocabulary import default_vocabulary

genes = default_vocabulary()
chosen = sorted(random.Random(0).sample(range(genes.size), 2000))
with open(sys.argv[1], "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["ensembl_id", "symbol", "length_bp"])
    rows.writerows((genes.ensembl_ids[i], genes.symbols[i], f"{genes.lengths_bp[i]:g}") for i in chosen)
PYTHON
    # the same share of genes as usual has to be expressed; nine tenths of the reads are in other genes
    { echo "vocabulary: $scratch/genes.csv"; printf 'min_nonzero_genes: 1400\nmax_outside_share: 1\n'
      cat examples/real_studies.yaml; } > "$scratch/build.yaml"
    python -m dataprep build --config "$scratch/build.yaml" --root "$studies" --corpus $place/corpus --overwrite \
        ${GENE_ALIASES:+--gene-aliases "$GENE_ALIASES"}
    python -m dataprep graph --corpus $place/corpus
fi

settings=examples/real_scaling
ray job submit --working-dir . -- python -m evaluation scaling sweep --corpus $place/corpus --output $place/sweep \
    --sizes $settings/d16.yaml,$settings/d24.yaml,$settings/d32.yaml,$settings/d48.yaml \
    --fractions 0.25,0.5,1 --seeds 0,1 --budget-steps 150 --training $settings/training.yaml

python -m evaluation scaling fit --sweep $place/sweep --output $place/scaling.json --plot $place/scaling
