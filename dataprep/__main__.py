"""``python -m dataprep COMMAND``."""

from __future__ import annotations

import sys
from typing import Any

from dataprep.config import (
    BuildSettings,
    ExportSettings,
    GraphSettings,
    InspectSettings,
    ProbeSettings,
    ProteinsSettings,
    SimulateSettings,
)
from dataprep.inspection.text import inspect_corpus
from dataprep.probing.command import probe
from dataprep.runtime.command_line import Command, main
from dataprep.simulate import simulate


def _build(settings: BuildSettings) -> dict[str, Any]:
    # Ray takes a second to import; the other commands do without it
    from dataprep.pipeline.build import build

    return build(settings)


def _graph(settings: GraphSettings) -> dict[str, Any]:
    from dataprep.coexpression.command import build_gene_graph

    return build_gene_graph(settings)


def _export(settings: ExportSettings) -> dict[str, Any]:
    # the same holds of anndata
    from dataprep.anndata_export import export

    return export(settings)


def _proteins(settings: ProteinsSettings) -> dict[str, Any]:
    # and of Ray again
    from dataprep.proteins.command import embed_proteins

    return embed_proteins(settings)


COMMANDS = {
    "probe": Command(ProbeSettings, probe, "guess the settings of sources from the beginnings of files"),
    "build": Command(BuildSettings, _build, "turn sources into a corpus"),
    "graph": Command(GraphSettings, _graph, "build the gene graph of a corpus from its train split or a table"),
    "proteins": Command(ProteinsSettings, _proteins, "embed the genes' proteins with ESM2, into a corpus"),
    "inspect": Command(InspectSettings, inspect_corpus, "check a corpus and summarise it"),
    "export": Command(ExportSettings, _export, "write a corpus as AnnData"),
    "simulate": Command(SimulateSettings, simulate, "simulate a cohort of raw counts with known structure"),
}

if __name__ == "__main__":
    sys.exit(main("dataprep", "Raw bulk RNA-seq to a corpus of normalised profiles.", COMMANDS))
