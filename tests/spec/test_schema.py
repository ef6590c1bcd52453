from __future__ import annotations

import json

import pytest

from dlcluster.errors import SpecError
from dlcluster.spec.schema import load_spec
from dlcluster.trial import content_id

LAUNCH_DEFAULTS = {
    "executor": "local", "profile": None, "parallel": None, "canary": False, "reuse_process": False,
    "trials_per_job": "pull", "trials_per_gpu": 1, "nodes": 1, "processes_per_node": 1, "gpus": None, "gpu_type": None, "cpus": 1, "mem": None,
    "partition": None, "account": None, "qos": None, "constraint": None, "setup": [], "extra_args": [],
    "env": {}, "pass_env": [], "grace": 30.0, "time": None, "margin": None, "hang_timeout": None,
    "max_attempts": 3, "retry": {},
}  # fmt: skip

FULL = """\
name: lr
question: Which learning rate?
command: python train.py --lr {lr} --out '{trial_dir}/a b'
cwd: src
metrics: {val_loss: 'valid loss ([0-9.]+)'}
objective: {metric: val_loss, goal: minimize, at: best}
sampler: {kind: sobol, trials: 8, seed: 1}
seeds: [3, 5]
on_nonfinite: stop
space: {lr: {loguniform: [1e-5, 1.0]}, opt.name: [sgd, adam]}
fixed: {epochs: 15}
where: [lr * epochs < 100]
tensorboard: true
code: live
share: group
launch: {executor: local, parallel: 8, reuse_process: true, trials_per_gpu: 2, gpus: 1, cpus: 4,
         env: {OMP_NUM_THREADS: 4, A: b, C: 0.5}, grace: 2m, max_attempts: 5}
"""


def test_everything_resolved_as_strict_json(write):
    spec = load_spec(write(FULL))
    row = spec.to_json()
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert row == {
        "name": "lr",
        "question": "Which learning rate?",
        "command": ["python", "train.py", "--lr", "{lr}", "--out", "{trial_dir}/a b"],
        "cwd": "src",
        "metrics": {"val_loss": "valid loss ([0-9.]+)"},
        "objective": {"metric": "val_loss", "goal": "minimize", "at": "best"},
        "sampler": {"kind": "sobol", "trials": 8, "seed": 1},
        "seeds": [3, 5],
        "on_nonfinite": "stop",
        "space": {"lr": {"loguniform": [1e-5, 1.0]}, "opt.name": {"choice": ["sgd", "adam"]}},
        "fixed": {"epochs": 15},
        "where": ["lr * epochs < 100"],
        "tensorboard": True,
        "code": "live",
        "share": "group",
        "launch": LAUNCH_DEFAULTS | {
            "parallel": 8, "reuse_process": True, "trials_per_gpu": 2, "gpus": 1, "cpus": 4,
            "env": {"OMP_NUM_THREADS": "4", "A": "b", "C": "0.5"}, "grace": 120.0, "max_attempts": 5,
        },
    }  # fmt: skip
    assert spec.job_name == json.dumps(row["command"], separators=(",", ":"))
    assert spec.text == FULL


def test_the_defaults(load):
    spec = load("")
    row = spec.to_json()
    assert row["launch"] == LAUNCH_DEFAULTS


def test_gpus_of_a_type_as_sbatch_has_them(load):
    launch = load("launch: {executor: slurm, gpus: 'a100:2'}").launch
    assert (launch.gpus, launch.gpu_type) == (2, "a100")


@pytest.mark.parametrize(
    ("launch", "n"),
    [("gpus: 4", 4), ("gpus: 0", 1), ("{executor: slurm, nodes: 2}", 1), ("{gpus: 4, processes_per_node: 1}", 1)],
)
def test_a_trial_is_a_process_for_each_of_its_gpus(load, launch, n):
    text = launch if launch.startswith("{") else "{" + launch + "}"
    assert load(f"launch: {text}").launch.processes_per_node == n


def test_more_defaults(load):
    spec = load("")
    row = spec.to_json()
    assert (row["seeds"], row["on_nonfinite"], row["code"], row["share"]) == ([0], "fail", "snapshot", "none")
    assert (row["question"], row["tensorboard"], row["objective"]["at"]) == ("", False, "last")
    assert spec.sampler.seed == 0
    assert spec.job_name == "jobs.digits"


BASE = "sampler: {kind: random, trials: 4}\nspace: {a: {uniform: [0, 1]}}\nfixed: {b: 1}\nwhere: [a < 0.9]\n"


@pytest.mark.parametrize(
    "change",
    ["sampler.trials=9", "seeds=4", "launch.cpus=7", "question=why", "tensorboard=true", "code=live", "name=other",
     "launch.env={A: 1}", "share=group"],
)  # fmt: skip
def test_what_does_not_change_the_identity(load, change):
    assert load(BASE, [change]).fingerprint == load(BASE).fingerprint


@pytest.mark.parametrize(
    "change",
    ["sampler.seed=1", "sampler.kind=sobol", "fixed.b=2", "fixed.b=1.0", "where=[a < 0.8]", "objective.at=best",
     "objective.goal=minimize", "space.a.uniform=[0, 2]", "job=jobs.other", "on_nonfinite=record"],
)  # fmt: skip
def test_what_makes_it_another_sweep(load, change):
    assert load(BASE, [change]).fingerprint != load(BASE).fingerprint


def test_the_fingerprint_is_the_id_of_the_identity(load):
    spec = load(BASE)
    assert spec.fingerprint == content_id(spec.identity())
    assert set(spec.identity()) == {"job", "space", "fixed", "where", "objective", "on_nonfinite", "sampler"}


@pytest.mark.parametrize(
    "job", ["jobs.digits", "jobs/digits.py:train", "pkg.mod:func", "digits", "my jobs/a-b.py", "a.py"]
)
def test_jobs(write, job):
    spec = load_spec(write(f"name: t\njob: {job}\nobjective: {{metric: val/acc, goal: maximize}}\n"))
    assert spec.job == job


def test_a_command_can_be_a_list(write):
    spec = load_spec(write("name: t\ncommand: [./run, 'a b', '3']\nobjective: {metric: a, goal: maximize}\n"))
    assert spec.command == ("./run", "a b", "3")


def test_shell_words_in_a_command_are_a_warning(write):
    spec = load_spec(write("name: t\ncommand: a | b\nobjective: {metric: a, goal: maximize}\n"))
    assert "sweep.yaml:2:10: warning: command: the command runs without a shell: '|'" in spec.warnings[0]


def test_the_project_root_is_the_nearest_parent_with_a_mark(tmp_path):
    folder = tmp_path / "project" / "sweeps" / "deep"
    folder.mkdir(parents=True)
    (tmp_path / "project" / "setup.cfg").touch()
    spec_file = folder / "a.yaml"
    spec_file.write_text("name: t\njob: a\nobjective: {metric: a, goal: maximize}\n")
    spec = load_spec(spec_file)
    assert spec.project_root == (tmp_path / "project").resolve()
    assert spec.path == spec_file.resolve()
    (folder / "pyproject.toml").touch()
    assert spec.project_root == folder.resolve()


def test_a_relative_path_is_shown_as_it_was_given(write, monkeypatch):
    path = write("name: 3\n")
    monkeypatch.chdir(path.parent)
    with pytest.raises(SpecError, match=r"(?m)^sweep.yaml:1:7: error\[E203\] name: expected text, got 3"):
        load_spec(type(path)("sweep.yaml"))


def test_a_problem_finds_its_place(load):
    spec = load(BASE)
    problem = spec.problem(("space", "a", "uniform", 1), "E999", "expected less", "take less")
    assert str(problem).endswith("sweep.yaml:5:26: error[E999] space.a.uniform[1]: expected less\n  hint: take less")
    assert spec.problem(("space", "zzz"), "E999", "x").line == 5
    assert spec.problem(("space", "a"), "E999", "x", of_key=True).column == 9


def test_set_replaces_and_adds(load):
    spec = load(
        BASE, ["sampler.trials=10", "launch.cpus=2", "fixed.c=[1, {d: 2}]", "space.a={choice: [1, 2]}", "seeds=[4, 5]"]
    )
    assert spec.sampler.trials == 10
    assert spec.launch.cpus == 2
    assert spec.fixed == {"b": 1, "c": [1, {"d": 2}]}
    assert spec.space.to_json() == {"a": {"choice": [1, 2]}}
    assert spec.seeds == (4, 5)
    assert spec.overrides[0] == "sampler.trials=10"


def test_set_reads_scalars_as_the_file_does(load):
    spec = load(BASE, ["fixed.b=1e-4", "question=a = b", "where.0=a < 0.5"])
    assert spec.fixed["b"] == 1e-4
    assert spec.question == "a = b"
    assert spec.where == ("a < 0.5",)


def test_set_knows_names_with_dots(write):
    text = "name: t\ncommand: x\nobjective: {metric: a, goal: maximize}\nfixed: {model.lr: 1}\n"
    assert load_spec(write(text), ["fixed.model.lr=2"]).fixed == {"model.lr": 2}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sampler.trials=ten", r"^--set sampler.trials=ten: error\[E203\] sampler.trials: expected an integer"),
        ("sampler.trials", r"^--set sampler.trials: error\[E208\] expected key.path=value\n  hint: for example"),
        ("=3", r"error\[E208\] expected key.path=value"),
        ("a..b=3", r"error\[E208\] expected key.path=value"),
        ("launch.cpu=3", r"^--set launch.cpu=3: error\[E202\] launch.cpu: unknown key 'cpu'. Did you mean 'cpus'\?"),
        ("seeds.x=3", r"error\[E203\] seeds: expected|error\[E208\] seeds.x: expected a mapping or a list above"),
        ("name.x=3", r"error\[E208\] name.x: expected a mapping or a list above this key, name is none"),
        ("where.7=3", r"error\[E208\] where.7"),
        ("fixed.b=[1", r"^--set fixed.b=\[1: error\[E201\] fixed.b: invalid YAML"),
        ("fixed.b=&a 1", r"error\[E201\] fixed.b: anchors/aliases"),
        ("fixed.b=017", r"^--set fixed.b=017: error\[E203\] fixed.b: it is octal"),
        ("space.a.uniform=[2, 1]", r"^--set space.a.uniform=\[2, 1\]: error\[E203\] .*: expected low < high"),
        ("space.a={uniform: [0, .nan]}", r"^--set space.a=.*: error\[E203\] space.a.uniform\[1\]: .*finite"),
        ("fixed.b=\x1b[31m", r"--set fixed.b=\\x1b\[31m: error\[E200\]"),
        ("fixed.b=", r"--set fixed.b=: error\[E203\] fixed.b: null is not allowed"),
    ],
)  # fmt: skip
def test_errors_in_set_name_the_option(errors_of, override, expected):
    import re

    message = errors_of(BASE, [override])
    assert re.search(expected, message, re.MULTILINE), message
    assert "sweep.yaml" not in message
