"""An export whose settings are not those of a model: one line that names the file."""

import json
from pathlib import Path

import pytest
from made_corpora import make_vocabulary
from made_exports import write_model

from dataprep.runtime.command_line import UserError
from pretrain.model.export_file import CONFIG_FILE, open_export


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda config: [config], "does not describe a model: it holds list"),
        (lambda config: config | {"model": [1]}, "does not describe a model"),
        (lambda config: config | {"model": config["model"] | {"dim": "wide"}}, r"model: dim: .* \(given: 'wide'\)$"),
    ],
)
def test_settings_that_describe_no_model(tmp_path: Path, change, complaint: str) -> None:
    write_model(tmp_path / "export", make_vocabulary(20))
    file = tmp_path / "export" / CONFIG_FILE
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(UserError, match=complaint):
        open_export(str(tmp_path / "export"))
