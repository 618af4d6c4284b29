#!/usr/bin/env bash
# Cell lines to a corpus to scores of drug response and gene essentiality, beside simple methods.
#     examples/cell_lines.sh FOLDER EXPORT PLACE
# FOLDER holds drug_response/ (gdsc_ln_ic50.csv, hpa_cell_lines/, crisprcleanr_15_lines/) and essentiality/ (a table of
# Chronos effects, CEGv2.txt, NEGv1.txt); EXPORT is a model over the default vocabulary; corpus and results go to PLACE.
# Where former gene symbols should count, GENE_ALIASES is a table made by `python -m dataprep.genes.make_aliases`.
set -euo pipefail
cd "$(dirname "$0")/.."
usage="usage: examples/cell_lines.sh FOLDER EXPORT PLACE"
folder=${1:?$usage} export=${2:?$usage} place=${3:?$usage}
drugs=$folder/drug_response genes=$folder/essentiality

if ! python -m dataprep inspect "$place/corpus"; then
    python -m dataprep build --config examples/cell_lines.yaml --root "$drugs" --corpus "$place/corpus" --overwrite \
        ${GENE_ALIASES:+--gene-aliases "$GENE_ALIASES"}
fi
evaluate() {
    python -m evaluation run --model "$export" --corpus "$place/corpus" "$@"
}

# 42 lines have whole profiles; the table of 706 z-scored genes has 580, for heads and simple methods alone
evaluate --tasks drug_response --drug_response.table "$drugs/gdsc_ln_ic50.csv" \
    --drug_response.cell_line_column depmap_id --output "$place/drug_response.json"
evaluate --tasks drug_response --drug_response.table "$drugs/gdsc_ln_ic50.csv" \
    --drug_response.features "$drugs/expression_706_genes_zscored.csv.gz" --output "$place/drug_response_706_genes.json"
# six of the lines with Chronos effects have whole profiles: a correlation within a fold takes three lines
evaluate --tasks essentiality --essentiality.table "$genes/chronos_gene_effect_58x887.tsv.gz" \
    --essentiality.cell_line_column depmap_id --essentiality.folds 2 --essentiality.core "$genes/CEGv2.txt" \
    --essentiality.nonessential "$genes/NEGv1.txt" --output "$place/essentiality.json"
