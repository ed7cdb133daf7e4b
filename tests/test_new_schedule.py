"""A schedule is one file: what the folder of schedules holds is on the command line, in the help and in the files."""

from __future__ import annotations

import json
import sys

import pytest

from host import schedules
from host.train import main

#: Widths that take turns.
FILE = """
from dataclasses import dataclass

from host.options import option
from host.schedules.base import Settings, Switch
from host.quantise import Precision


class Turns:
    cp = None

    def __init__(self, stages, every):
        self.stages, self.every, self.iteration = stages, every, 0

    @property
    def precision(self):
        return self.stages[self.iteration // self.every % len(self.stages)]

    def observe(self, loss, cost=0.0):
        before, self.iteration = self.precision, self.iteration + 1
        stage = self.iteration // self.every % len(self.stages)
        return None if self.precision == before else Switch(self.iteration, stage, self.precision)

    def state(self):
        return {"iteration": self.iteration}

    def load_state(self, state):
        self.iteration = state["iteration"]


@dataclass(frozen=True, kw_only=True)
class TurnsSettings(Settings, name="turns"):
    STAGES = (Precision(4, 6), Precision(8, 8))

    every: int = option(2, "iterations at each width")

    def check(self):
        super().check()
        self.require(self.every >= 1, "every", "at least 1")

    def build(self, total):
        return Turns(self.stages, self.every)
"""
OPTIONS = ["--board", "golden", "--subset", "fraction=0.1", "--batch", "48", "--epochs", "2", "--schedule", "turns"]


@pytest.fixture(autouse=True)
def turns(tmp_path, monkeypatch):
    """The file in the folder of schedules, and nothing else of the program changed."""
    (tmp_path / "turns.py").write_text(FILE)
    monkeypatch.setattr(schedules, "__path__", [*schedules.__path__, str(tmp_path)])
    schedules.discover()
    yield
    del schedules.SCHEDULES["turns"], sys.modules["host.schedules.turns"]


def test_it_trains_from_the_command_line(tmp_path):
    out = tmp_path / "run"
    assert main([*OPTIONS, "--every", "4", "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert [(switch["iteration"], switch["fw"], switch["bw"]) for switch in summary["stage_switches"]] == [(4, 8, 8)]
    assert (summary["config"]["schedule"], summary["config"]["every"]) == ("turns", 4)
    assert "turns: FW4/BW6, FW8/BW8" in (out / "report.md").read_text()
    assert main(["--resume", "--every", "4", "--out", str(out)]) == 0


def test_its_options_are_checked(tmp_path, capsys):
    for options, message in (
        (["--every", "0"], "--every is 0, must be at least 1"),
        (["--fw", "4", "--bw", "6,8"], "--fw names 1 stages and --bw 2"),
        (["--cp", "3"], "--cp needs --schedule dfq or fractrain, not turns"),
    ):
        assert main([*OPTIONS, *options, "--out", str(tmp_path / "run")]) == 2
        assert message in capsys.readouterr().err
    assert main([*OPTIONS[:-1], "static", "--every", "4", "--out", str(tmp_path / "run")]) == 2
    assert "--every needs --schedule turns, not static" in capsys.readouterr().err


def test_its_options_are_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "static, turns (default: pfq)" in printed
    assert "turns: iterations at each width (default: 2)" in printed


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="two schedules are called 'turns'"):

        class Again(schedules.Settings, name="turns"):
            pass
