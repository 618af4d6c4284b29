"""Help, printed settings and refused settings come at once: torch, which takes seconds, is not imported for them."""

import subprocess
import sys

import pytest

# What a command imports is only known of a process in which nothing else was imported.
_RUN = """
import runpy, sys
sys.argv[0] = "evaluation"
try:
    runpy.run_module("evaluation", run_name="__main__", alter_sys=False)
except SystemExit as exit:
    slow = {"torch", "ray", "sklearn", "anndata"} & set(sys.modules)
    print(f"exit {exit.code}, imported {sorted(slow)}", file=sys.stderr)
"""
_EMBED = ("embed", "--model", "m", "--input", "c", "--output", "x.parquet")
_SCORE = ("run", "--model", "m", "--corpus", "c")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--help",), 0),
        (("embed", "--help"), 0),
        (("run", "--help"), 0),
        ((*_EMBED, "--print-config"), 0),
        ((*_SCORE, "--print-config"), 0),
        ((*_EMBED, "--pooling", "sum"), 2),
        ((*_SCORE, "--tasks", "palmistry"), 2),
        (("train",), 2),
    ],
)
def test_torch_is_not_imported_before_there_is_work_for_it(arguments, code):
    done = subprocess.run([sys.executable, "-c", _RUN, *arguments], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == f"exit {code}, imported []", done.stderr
