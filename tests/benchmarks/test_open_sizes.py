"""The program that times one library of open sizes beside libraries of one shape."""

import importlib
import sys

import pytest


def run(monkeypatch, cache, *arguments):
    program = importlib.import_module("open_sizes")
    options = ["--cache", str(cache), "--threads", "1", "--seconds", "0"]
    monkeypatch.setattr(sys, "argv", ["open_sizes.py", *arguments, *options])
    program.main()


def test_a_transformer_compiled_first_and_timed_then(tmp_path, monkeypatch, capsys):
    sizes = ["bert-tiny-90", "--sizes", "1x16", "2x5"]
    run(monkeypatch, tmp_path, *sizes, "--save")
    assert not capsys.readouterr().out
    run(monkeypatch, tmp_path, *sizes, "--load")
    *_, first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("| bert-tiny-90 | 1x16 | ")
    assert second.startswith("| bert-tiny-90 | 2x5 | ")


def test_results_that_differ(tmp_path, monkeypatch):
    with pytest.raises(Exception, match="bert-tiny-90 at 1x4: outputs differ by"):
        run(monkeypatch, tmp_path, "bert-tiny-90", "--sizes", "1x4", "--tolerance", "-1")
