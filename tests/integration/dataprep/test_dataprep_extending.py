"""The example of docs/extending.md works: a source from a file of its own builds a corpus through the command."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from dataprep.corpus import open_corpus, read_split
from dataprep.runtime.command_line import UserError
from dataprep.runtime.ray_session import require_plugins_on_workers
from tests.made_sources import counts, gene_ids, names, write_vocabulary

ROOT = Path(__file__).parents[3]
EXAMPLES = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), flags=re.DOTALL)


def example(language: str, containing: str) -> str:
    (found,) = [text for kind, text in EXAMPLES if kind == language and containing in text]
    return found


def test_the_source_of_the_documentation_builds_a_corpus(tmp_path: Path) -> None:
    (tmp_path / "my_source.py").write_text(example("python", "register_source"))
    settings = yaml.safe_load(example("yaml", "long_table"))
    settings |= {"vocabulary": write_vocabulary(tmp_path), "min_nonzero_genes": 10, "corpus": "corpus"}
    settings["split"] = {"validation_fraction": 0, "test_fraction": 0}
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "my_study").mkdir()
    values = counts(5)
    lines = [
        f"{sample},{gene},{value}\n"
        for sample, row in zip(names("s", 5), values, strict=True)
        for gene, value in zip(gene_ids(), row, strict=True)
    ]
    (tmp_path / "my_study" / "x.csv").write_text("".join(lines))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}
    done = subprocess.run(
        [sys.executable, "-m", "dataprep", "build", "--config", "build.yaml", "--json"],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["samples"] == {"read": 5, "kept": 5, "rejected": {}}
    corpus = open_corpus(str(tmp_path / "corpus"))
    assert corpus.manifest.settings["sources"][0]["delimiter"] == ","
    row_ids, expression = read_split(corpus, "train")
    sample_ids = np.array(corpus.samples().column("sample_id").to_pylist())[row_ids]
    rate = values / corpus.vocabulary.lengths_bp
    expected = np.log1p(rate / rate.sum(axis=1, keepdims=True) * 1e6)
    order = [names("s", 5).index(sample) for sample in sample_ids]
    assert np.allclose(expression, expected[order], rtol=2e-3)


def test_a_plugin_that_only_the_driver_can_import_is_named(ray_session, tmp_path: Path, monkeypatch) -> None:
    """Ray runs already, as a cluster does, and its workers know nothing of the driver's path."""
    (tmp_path / "only_here.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"^no module 'only_here'; .* of Ray's workers, too: install it there"):
        require_plugins_on_workers("only_here")
    require_plugins_on_workers("dataprep.simulate")
