"""``python -m pretrain COMMAND``."""

import sys

from dataprep.command_line import Command, main
from pretrain.config import RunSettings
from pretrain.released import ImportReleasedSettings, import_released
from pretrain.run import run

COMMANDS = {
    "run": Command(RunSettings, run, "Pretrain a model on a corpus; started again, the run goes on."),
    "import-released": Command(
        ImportReleasedSettings, import_released, "Turn a released checkpoint into a model export."
    ),
}

if __name__ == "__main__":
    sys.exit(main("pretrain", "Pretrain BulkFormer models, data-parallel on Ray.", COMMANDS))
