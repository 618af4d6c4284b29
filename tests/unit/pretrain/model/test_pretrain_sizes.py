"""A size of one's own, from a file or from a plugin, works wherever a size is asked for."""

import json
import pickle
import sys
from pathlib import Path

import pytest

from dataprep.runtime.command_line import UserError, main, read_settings
from pretrain import shape
from pretrain.__main__ import COMMANDS
from pretrain.bench import training_step
from pretrain.config import ModelSettings, RunSettings
from pretrain.shape import register_size, size_names

OWN = "dim: 24\nperformer_layers: 2\nheads: 4\n"
PLUGIN = "from pretrain.shape import register_size\nregister_size('own_12k', 24, 2, 4)\n"


@pytest.fixture
def own_size(tmp_path: Path) -> Path:
    file = tmp_path / "own.yaml"
    file.write_text(OWN)
    return file


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch) -> str:
    monkeypatch.setattr(shape, "_registered", {})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_sizes", raising=False)
    (tmp_path / "own_sizes.py").write_text(PLUGIN)
    return "own_sizes"


def run_settings(*arguments: object) -> RunSettings:
    required = ["--corpus", "c", "--storage", "s", "--name", "n"]
    return read_settings(RunSettings, [*required, *map(str, arguments)])


def test_a_run_has_the_numbers_of_the_file_and_needs_it_no_more(own_size):
    settings = run_settings("--model.size", own_size)
    own_size.unlink()
    of_worker = pickle.loads(pickle.dumps(settings)).model.shape(genes=50)
    assert (of_worker.dim, of_worker.performer_layers, of_worker.heads, of_worker.blocks) == (24, 2, 4, 1)
    stored = settings.resolved()["model"]
    assert (stored["dim"], stored["performer_layers"], stored["heads"], stored["blocks"]) == (24, 2, 4, 1)
    assert ModelSettings(**stored) == settings.model


def test_other_numbers_in_the_file_are_other_settings(own_size):
    before = run_settings("--model.size", own_size).resolved()
    own_size.write_text(OWN.replace("24", "32"))
    assert run_settings("--model.size", own_size).resolved() != before


def test_numbers_given_replace_those_of_the_file(own_size):
    shape = run_settings("--model.size", own_size, "--model.heads", "2").model.shape(genes=50)
    assert (shape.dim, shape.heads) == (24, 2)


def test_settings_with_a_size_of_the_package_are_stored_as_ever():
    assert run_settings("--model.size", "37M").resolved()["model"]["dim"] is None


def test_a_size_may_name_its_family_and_settings_another(own_size):
    own_size.write_text(OWN + "family: latest\nfeatures_per_head: 9\n")
    settings = run_settings("--model.size", own_size)
    own_size.unlink()
    shape = pickle.loads(pickle.dumps(settings)).model.shape(genes=50)
    assert (shape.family, shape.random_features, shape.graph_dim) == ("latest", 9, 6)
    assert run_settings("--model.size", "37M", "--model.family", "latest").model.shape(50).graph_dim == 32
    other = run_settings("--model.size", "101M", "--model.family", "original").model.shape(50)
    assert (other.family, other.random_features, other.embedding_width) == ("original", 266, 771)


def test_bench_takes_a_file_and_the_name_of_a_plugin(own_size, plugin, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(training_step, "_SQUARES", {"cpu": (64,)})
    latest = tmp_path / "latest.yaml"
    latest.write_text(OWN + "family: latest\n")
    sizes = f"{own_size},own_12k,{latest}"
    arguments = ["--plugins", plugin, "--size", sizes, "--kernel", "fused", "--genes", "40", "--edges-per-gene", "2"]
    arguments += ["--steps", "1", "--warmup-steps", "0", "--threads", "1", "--no-compile", "--json"]
    assert main("pretrain", "", COMMANDS, ["bench", *arguments]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["size"] for row in rows] == [str(own_size), "own_12k", str(latest)]
    assert rows[0]["gflops"] * rows[0]["step_seconds"] == pytest.approx(rows[1]["gflops"] * rows[1]["step_seconds"])


def test_a_plugin_gives_a_size_a_name(plugin):
    settings = run_settings("--plugins", plugin, "--model.size", "own_12k")
    assert settings.model.shape(genes=50).dim == 24
    assert size_names()[-1] == "own_12k"
    register_size("own_12k", 24, 2, 4)
    for name in ("own_12k", "37M"):
        with pytest.raises(ValueError, match=f"there is a model size '{name}' already"):
            register_size(name, 48, 2, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"model size .*own.yaml: no such file"),
        ("dim: 24\nheads: 4\n", r"own.yaml: performer_layers: Field required"),
        (OWN + "layers: 3\n", r"own.yaml: layers: Extra inputs are not permitted"),
        (OWN.replace("24", "wide"), r"own.yaml: dim: Input should be a valid integer"),
        ("- 24\n", r"own.yaml has no lines NAME: NUMBER for dim, performer_layers, heads, blocks"),
        ("dim: [", r"own.yaml: .*expected"),
    ],
)
def test_files_that_hold_no_size_are_refused_in_one_line(tmp_path, content, message):
    file = tmp_path / "own.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message) as refused:
        run_settings("--model.size", file)
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)
