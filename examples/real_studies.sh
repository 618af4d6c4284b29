#!/usr/bin/env bash
# Published studies to a corpus to a model over all 20,024 genes to scores on studies it has not seen.
#     examples/real_studies.sh FOLDER
# where FOLDER holds studies/NAME/expression.tsv.gz and cohorts/NAME/expression.tsv.gz. Needs the services of `python -m cluster up` and, where former
# gene symbols should count, GENE_ALIASES: a table made by `python -m dataprep.genes.make_aliases`.
# A repeat continues where the last one stopped: the corpus is kept, the run resumes.
set -euo pipefail
cd "$(dirname "$0")/.."
studies=${1:?usage: examples/real_studies.sh FOLDER}
. .local/env
place=s3://bulkformer/real-studies

if ! python -m dataprep inspect $place/corpus; then
    python -m dataprep build --config examples/real_studies.yaml --root "$studies" --corpus $place/corpus --overwrite \
        ${GENE_ALIASES:+--gene-aliases "$GENE_ALIASES"}
    python -m dataprep graph --corpus $place/corpus
fi

# A linear prior with which the model begins and whose errors it learns; a repeat fits it again. 700 components cost less
# than a twentieth of a training step of this size.
python -m pretrain prior --corpus $place/corpus --ranks 700

# The 37M size is D = 128, K = 1. Its published batch of 4,096 would be nine epochs a step here.
ray job submit --working-dir . -- python -m pretrain run \
    --corpus $place/corpus --storage $place/runs --name real-37M-prior \
    --model.size 37M --model.prior ppca --model.kernel fused --model.compile --workers.count 2 \
    --batch.global-profiles 8 --batch.micro-profiles 4 --epochs 100 --max-steps 350 \
    --optimizer.learning-rate 0.0005 --optimizer.warmup-fraction 0.1 \
    --optimizer.decay cosine --optimizer.final-fraction 0.02 \
    --validation.every-steps 30 --checkpoint.every-steps 50

python -m evaluation run --model $place/runs/real-37M-prior/export --corpus $place/corpus --tasks imputation --kernel fused
