#!/usr/bin/env bash
# A model through every task that published data of examples/real_studies.yaml and of cell lines allow, as Ray jobs, one
# after the other, each beside simple methods.
#     examples/real_evaluations.sh FOLDER EXPORT CORPUS PLACE
# FOLDER holds drug_response/ and essentiality/ as examples/cell_lines.sh describes them; EXPORT is a model and CORPUS the
# corpus of the studies and cohorts (examples/real_studies.sh makes both); results go to PLACE, one file for each job.
# Needs a cluster whose settings are in the shell: `python -m cluster up`, then `. .local/env`. Addresses that are folders
# have to be seen from its nodes. Where former gene symbols should count, GENE_ALIASES is a table made by
# `python -m dataprep.genes.make_aliases`. A result that is there is kept: a repeat goes on where the last one stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
usage="usage: examples/real_evaluations.sh FOLDER EXPORT CORPUS PLACE"
folder=$(realpath "${1:?$usage}") export=${2:?$usage} corpus=${3:?$usage} place=${4:?$usage}
drugs=$folder/drug_response genes=$folder/essentiality
lines=(--corpus examples/cell_lines.yaml --cohort.root "$drugs" ${GENE_ALIASES:+--cohort.gene-aliases "$GENE_ALIASES"})

evaluate() {
    local name=$1
    shift
    if python -c "import sys; from dataprep.runtime.storage import Folder; sys.exit(not Folder(sys.argv[1]).exists(sys.argv[2]))" \
        "$place" "$name.json"; then
        return
    fi
    python -m cluster submit -- python -m evaluation run --model "$export" --output "$place/$name.json" "$@"
}

# studies and cohorts; those of patients leave out one cohort after the other
evaluate cancer_type --corpus "$corpus" --tasks classification --label cancer_type
evaluate tissue --corpus "$corpus" --tasks classification --label SMTS
evaluate response --corpus "$corpus" --tasks classification --label response \
    --classification.missing-labels Yes,No,NA,unknown --classification.leave-one-group-out
evaluate prognosis --corpus "$corpus" --tasks prognosis
# the cell lines are no corpus: they are read for each job. 42 have ln IC50; a table of 706 genes has 580, for heads and
# simple methods alone; a correlation within a fold takes three lines, and six have Chronos effects
evaluate drug_response "${lines[@]}" --tasks drug_response --drug_response.table "$drugs/gdsc_ln_ic50.csv" \
    --drug_response.cell_line_column depmap_id
evaluate drug_response_706_genes "${lines[@]}" --tasks drug_response --drug_response.table "$drugs/gdsc_ln_ic50.csv" \
    --drug_response.features "$drugs/expression_706_genes_zscored.csv.gz"
evaluate essentiality "${lines[@]}" --tasks essentiality --essentiality.table "$genes/chronos_gene_effect_58x887.tsv.gz" \
    --essentiality.cell_line_column depmap_id --essentiality.folds 2 --essentiality.core "$genes/CEGv2.txt" \
    --essentiality.nonessential "$genes/NEGv1.txt"
# as the authors did it: samples of a study, and of a patient, in several folds
evaluate cancer_type_published --corpus "$corpus" --tasks classification --label cancer_type \
    --classification.protocol published
evaluate tissue_published --corpus "$corpus" --tasks classification --label SMTS --classification.protocol published
evaluate prognosis_published --corpus "$corpus" --tasks prognosis --prognosis.protocol published
