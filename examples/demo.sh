#!/usr/bin/env bash
# Raw counts to a trained model to scores, in a few minutes on two cores. `make demo` runs it in the environment of
# `make install`; it can be repeated, each time as a new run.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*" >&2; }

step "object store, MLflow and Ray on this machine"
python -m cluster up
. .local/env

# one place in the bucket, so that a repeat does not fill the disk; one name per run, as MLflow keeps all of them
demo=s3://bulkformer/demo
run=demo-$(date +%Y%m%d-%H%M%S)
python -c "from dataprep.runtime.storage import Folder; Folder('s3://bulkformer').remove('demo')"

step "a simulated cohort: 400 samples of 2,000 genes, 8 studies, raw counts"
python -m dataprep simulate --samples 400 --genes 2000 --output $demo/raw

step "the corpus: TPM, quality control, split by study, Parquet"
# simulate wrote beside the counts what they are; a settings file has to be on this machine
settings=$(mktemp)
trap 'rm -f "$settings"' EXIT
python -c "from dataprep.runtime.storage import Folder; print(Folder('$demo/raw').read_text('build.yaml'))" > "$settings"
python -m dataprep build --config "$settings" --corpus $demo/corpus
python -m dataprep graph --corpus $demo/corpus
python -m dataprep inspect $demo/corpus

step "a linear model of the train studies, which the network starts from"
python -m pretrain prior --corpus $demo/corpus

step "pretraining, as a Ray job of two workers"
python -m cluster submit --name "$run" -- python -m pretrain run \
    --corpus $demo/corpus --storage $demo/runs --name "$run" \
    --model.size tiny --model.prior ppca --model.kernel fused --workers.count 2 \
    --batch.global-profiles 32 --batch.micro-profiles 8 --optimizer.learning-rate 0.003 --max-steps 80

step "scores on studies that it has not seen, beside simple methods"
python -m evaluation run --model "$demo/runs/$run/export" --corpus $demo/corpus \
    --output "$demo/runs/$run/results.json" --label tissue --imputation.resamples 200 --classification.folds 5 --classification.trees 100

step "a report of all of it"
report=$PWD/demo-report.html
python -m evaluation embed --model "$demo/runs/$run/export" --input $demo/corpus --output $demo/embeddings.parquet
python -m evaluation report --output "$report" --title "Demo: run $run" --run "$demo/runs/$run" \
    --results "$demo/runs/$run/results.json" --embeddings $demo/embeddings.parquet --label tissue

step "done"
echo "runs and artifacts: $MLFLOW_TRACKING_URI; user and password: MLFLOW_TRACKING_* in .local/env"
echo "make down ends the services; make demo again uses them as they are"
echo "read the report in a browser: $report"
