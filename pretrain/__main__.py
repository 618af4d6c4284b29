"""``python -m pretrain COMMAND``.

The modules behind a command are imported when it runs: they take seconds, and ``--help`` should not.
"""

import sys
from typing import Any

from dataprep.runtime.command_line import Command, main
from pretrain.config import BenchSettings, ExportSettings, ImportReleasedSettings, PriorSettings, RunSettings


def _run(settings: RunSettings) -> dict[str, Any]:
    from pretrain.driver.run import run

    return run(settings)


def _export(settings: ExportSettings) -> dict[str, Any]:
    from pretrain.artifacts.export_command import export_command

    return export_command(settings)


def _import_released(settings: ImportReleasedSettings) -> dict[str, Any]:
    from pretrain.artifacts.released import import_released

    return import_released(settings)


def _prior(settings: PriorSettings) -> dict[str, Any]:
    from pretrain.prior.command import fit_prior

    return fit_prior(settings)


def _bench(settings: BenchSettings) -> list[dict[str, Any]]:
    from pretrain.bench.training_step import bench

    return bench(settings)


COMMANDS = {
    "run": Command(RunSettings, _run, "Pretrain a model on a corpus; started again, the run resumes."),
    "export": Command(ExportSettings, _export, "Export a checkpoint of a run, or convert an export."),
    "prior": Command(PriorSettings, _prior, "Fit the linear prior of a corpus, for runs with --model.prior ppca."),
    "bench": Command(BenchSettings, _bench, "Time training steps per kernel and size; memory, share of GEMM peak."),
    "import-released": Command(
        ImportReleasedSettings, _import_released, "Turn a released checkpoint into a model export."
    ),
}

if __name__ == "__main__":
    sys.exit(main("pretrain", "Pretrain BulkFormer models, data-parallel on Ray.", COMMANDS))
