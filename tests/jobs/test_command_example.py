"""The example program runs on its own, prints what a sweep can read, and its spec fits it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dlcluster.spec.expand import expand
from dlcluster.spec.schema import load_spec

CHECKOUT = Path(__file__).parents[2]
LINE = re.compile(r"epoch=(\d+) val_loss=([\d.]+) val_accuracy=([\d.]+)")


def output(*arguments):
    command = [sys.executable, "-S", "-E", "jobs/command_example.py", *map(str, arguments)]  # -S: no other library
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def losses(*arguments):
    return [float(loss) for _, loss, _ in LINE.findall(output(*arguments))]


def test_each_epoch_is_a_line_with_numbers():
    lines = output("--epochs", 3).splitlines()
    assert [LINE.fullmatch(line)[1] for line in lines] == ["1", "2", "3"]


def test_it_learns():
    found = losses("--lr", 0.03)
    assert found[-1] < 0.45 and found[-1] <= found[0]
    assert float(LINE.findall(output("--lr", 0.03))[-1][2]) > 0.75


def test_the_learning_rate_matters_at_both_ends():
    good = losses("--lr", 0.03)[-1]
    assert losses("--lr", 1e-4)[-1] > 1.3 * good
    assert losses("--lr", 1.0)[-1] > 1.1 * good


@pytest.mark.parametrize("lr", [1e-4, 1.0, 1e6])
def test_no_learning_rate_crashes_it(lr):
    assert len(losses("--lr", lr)) == 20


def test_same_seed_same_output_other_seed_another():
    assert output("--seed", 1) == output("--seed", 1) != output("--seed", 2)


@pytest.mark.parametrize("name", ["lr", "command"])
def test_the_specs_that_come_with_it_are_valid(name):
    spec = load_spec(CHECKOUT / "sweeps" / f"{name}.yaml")
    assert (spec.name, len(expand(spec).trials)) == (name, {"lr": 72, "command": 16}[name])


def test_the_commands_of_the_spec_run():
    spec = load_spec(CHECKOUT / "sweeps/command.yaml")
    trial = expand(spec).trials[0]
    values = {**trial.params, "seed": trial.seed}
    words = [word.format(**values) for word in spec.command]
    assert words[:2] == ["python", "jobs/command_example.py"]
    assert len(LINE.findall(output(*words[2:]))) == trial.params["epochs"]
