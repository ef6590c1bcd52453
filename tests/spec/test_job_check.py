from __future__ import annotations

import re

import pytest

from dlcluster.spec.job_check import check_parameters
from dlcluster.spec.schema import load_spec

BODY = "sampler: {kind: random, trials: 4}\n"
BODY += "space:\n  lr: [1, 2]\n  m: {choice: [1, 2], when: {lr: 1}}\nfixed: {epochs: 3}\n"
OPTIONAL, REQUIRED = {"required": False}, {"required": True}


def check(load, description) -> list[str]:
    return [str(problem) for problem in check_parameters(load(BODY), description)]


def test_a_job_that_takes_all_parameters(load):
    parameters = {"lr": REQUIRED, "m": OPTIONAL, "epochs": REQUIRED, "width": OPTIONAL}
    assert check(load, {"parameters": parameters, "takes_any": False}) == []
    assert check(load, {"parameters": {}, "takes_any": True}) == []


def test_a_parameter_that_the_job_does_not_take(load):
    problems = check(load, {"parameters": {"lr_": OPTIONAL, "m": OPTIONAL, "epoch": OPTIONAL}, "takes_any": False})
    assert len(problems) == 2
    assert re.search(
        r":6:3: error\[E207\] space.lr: the job jobs.digits does not take 'lr'\n  hint: Did you mean 'lr_'\?",
        problems[0],
    )
    assert re.search(r":8:9: error\[E207\] fixed.epochs: .*\n  hint: Did you mean 'epoch'\?", problems[1])


def test_a_parameter_that_the_job_needs(load):
    parameters = {"width": REQUIRED, "m": REQUIRED}
    problems = check(load, {"parameters": parameters, "takes_any": True})
    assert re.search(
        r"error\[E207\] space: the job jobs.digits needs the parameter 'width'\n  hint: .*width: 1", problems[0]
    )
    assert re.search(r":7:29: error\[E207\] space.m.when: .* always needs 'm', which is absent when", problems[1])


HEAD = "name: t\nobjective: {metric: a, goal: maximize}\nfixed: {lr: 1, model.width: 2}\n"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python a.py --lr {lr} --w {model.width} {seed} {trial_dir} {trial_id} {config_file}", []),
        ("python a.py", []),
        ("python -c 'print({{1}}, {{lr}})'", []),
        (
            "python --lr {lrr}",
            [r":4:10: error\[E207\] command\[2\]: unknown placeholder '\{lrr\}'\n  hint: Did you mean 'lr'\?"],
        ),
        (
            "[python, '{}']",
            [r":4:19: error\[E207\] command\[1\]: unknown placeholder '\{\}'\n  hint: known: lr, model.width"],
        ),
        ("python {lr} { {x", [r"command\[2\]: expected \{name\}, got a lone '\{'", r"command\[3\]: .*lone"]),
        ("python }", [r"lone '\}'\n  hint: write \}\}"]),
        ("python {lr.__class__} {lr!r} {lr:3}", ["unknown placeholder"] * 3),
    ],
)
def test_placeholders(write, command, expected):
    problems = check_parameters(load_spec(write(f"{HEAD}command: {command}\n")))
    assert len(problems) == len(expected), problems
    for problem, pattern in zip(problems, expected, strict=True):
        assert re.search(pattern, str(problem)), str(problem)


def test_a_placeholder_of_a_parameter_that_can_be_absent(write):
    text = "name: t\nobjective: {metric: a, goal: maximize}\nsampler: {kind: grid}\ncommand: x {m}\n"
    spec = load_spec(write(text + "space: {a: [1, 2], m: {choice: [1, 2], when: {a: 1}}}\n"))
    assert "is empty when the condition" in str(check_parameters(spec)[0])
