"""Any program as a trial: what it is given, what is read from it, and how its end is judged."""

from __future__ import annotations

import json
import math
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcluster.placeholders import fill_placeholders
from dlcluster.worker.command import end_reason, parse_line
from dlcluster.worker.values import LARGEST_INTEGER
from tests.support import check_files, history_of, run_worker, start_worker, submit, wait_until

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_./-]{0,20}", fullmatch=True)
INTEGERS = st.integers(-LARGEST_INTEGER, LARGEST_INTEGER)


def same(found, expected):
    return found == expected or (isinstance(found, float) and math.isnan(found) and math.isnan(expected))


# -- what is read from a line -------------------------------------------------------------------------------------


@given(st.dictionaries(NAMES, st.floats() | INTEGERS, max_size=5), st.sampled_from([" ", ", ", "; ", " | "]))
def test_pairs_are_read_back(metrics, separator):
    line = separator.join(f"{name}={value!r}" for name, value in metrics.items())
    found = parse_line(line, {})
    assert found.keys() == metrics.keys()
    assert all(same(found[name], value) for name, value in metrics.items())


@given(st.dictionaries(NAMES, st.floats() | INTEGERS, max_size=5))
def test_json_lines_are_read_back(metrics):
    found = parse_line(json.dumps(metrics), {})
    assert found.keys() == metrics.keys()
    assert all(same(found[name], value) for name, value in metrics.items())


@given(st.text())
def test_any_line_gives_names_and_numbers_that_can_be_logged(line):
    for patterns in ({}, {"loss": re.compile(r"(\S+)")}):
        for name, value in parse_line(line, patterns).items():
            assert isinstance(name, str)
            assert type(value) in (int, float)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("epoch 3: loss=0.25 acc = 91.5 (best)", {"loss": 0.25, "acc": 91.5}),
        ("loss=1e-3, val/acc=.5; n=-7", {"loss": 0.001, "val/acc": 0.5, "n": -7}),
        ("loss=nan other=-inf", {"loss": math.nan, "other": -math.inf}),
        ("loss=NaN other=Infinity", {"loss": math.nan, "other": math.inf}),
        ("loss=0.25s", {}),
        ("file=/tmp/3 --lr=0.1 a.b=1", {"a.b": 1}),
        ("n=" + "9" * 30, {"n": float("9" * 30)}),
        ("a=1 a=2", {"a": 2}),
        ("x" * 300 + "=1", {}),
        ('{"loss": 0.5, "text": "3", "flag": true, "none": null, "list": [1]}', {"loss": 0.5}),
        ('{"loss": NaN, "big": 1e400}', {"loss": math.nan, "big": math.inf}),
        ('{"n": ' + "9" * 30 + ', "": 1, "a\\nb": 2}', {"n": float("9" * 30)}),
        ('{"n": ' + "9" * 400 + "}", {}),
        ("{'loss': 1} loss=2", {"loss": 2}),
        ('{"a":' * 5000, {}),
        ("", {}),
        ("=5", {}),
    ],
    ids=range(17),
)
def test_lines_as_programs_print_them(line, expected):
    found = parse_line(line, {})
    assert found.keys() == expected.keys()
    assert all(same(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("valid loss 0.25 after 3", {"val_loss": 0.25}),
        ("valid loss nothing", {}),
        ("loss=3", {}),
        ("valid loss 7", {"val_loss": 7}),
    ],
)
def test_declared_patterns_are_read_and_nothing_else(line, expected):
    assert parse_line(line, {"val_loss": re.compile(r"valid loss (\S+)")}) == expected


@pytest.mark.parametrize(
    ("code", "reason"),
    [(3, "exit(3)"), (-9, "killed(9)"), (-11, "crashed(11)"), (-6, "crashed(6)"), (-15, "killed(15)")],
)
def test_ends_have_names(code, reason):
    assert end_reason(code) == reason


def test_placeholders_are_filled_once_and_never_split():
    values = {"a": "{b} two words", "b": 1e-05, "flag": True, "items": [1, "x"], "none": None, "it.em": "$(x)"}
    template = ["--a={a}", "{b}", "{{a}}", "{flag} {items}", "{none}", "{it.em}"]
    expected = ["--a={b} two words", "1e-05", "{a}", 'true [1, "x"]', "null", "$(x)"]
    assert fill_placeholders(template, values) == expected
    with pytest.raises(KeyError):
        fill_placeholders(["{c}"], values)


# -- programs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def program(project):
    """Run a program as the only trial of a sweep; returns the project and its trial."""

    def run(command, *, space=None, rules=None, **spec):
        project.write_spec(
            job=None,
            command=command,
            space={"lr": [0.5]} if space is None else space,
            fixed={},
            launch={"parallel": 1, "grace": "2s"},
            **spec,
        )
        project.finished = run_worker(project, submit(project, **(rules or {})))
        (trial,) = project.trials()
        project.trial = trial
        return project

    return run


def metrics_of(project):
    return [(row["step"], row["metrics"]) for row in history_of(project.sweep.trial(project.trial)).metrics]


def log_of(project):
    return project.sweep.trial(project.trial).attempt(1).log.read_text()


AWKWARD = [
    "two words",
    'it\'s "quoted"',
    "$(touch pwned) `id` $HOME",
    "a\nb\tc",
    "größe ❤",
    "-rf",
    "*",
    ";&|<>",
    "",
    "%s",
]


def test_values_arrive_as_one_argument_each_byte_for_byte(program):
    code = "import os, sys; print('ARGS', [os.fsencode(a).hex() for a in sys.argv[1:]])"
    names = [f"p{i}" for i in range(len(AWKWARD))]
    ran = program(
        ["python", "-c", code, *(f"{{{name}}}" for name in names), "x={p0}"],
        space=dict(zip(names, AWKWARD, strict=True)),
    )
    (line,) = [line for line in log_of(ran).splitlines() if line.startswith("ARGS")]
    arrived = [bytes.fromhex(text).decode() for text in re.findall(r"'([0-9a-f]*)'", line)]
    assert arrived == [*AWKWARD, "x=two words"]
    assert ran.ends(ran.trial) == ["completed"]
    assert not list(ran.root.rglob("pwned"))


def test_values_arrive_in_the_environment_and_in_a_file_too(program):
    code = (
        "import json, os, sys; config = json.load(open(sys.argv[1])); "
        "print(json.dumps([config, os.environ['DLCLUSTER_PARAM_TEXT'], os.environ['DLCLUSTER_SEED']]))"
    )
    ran = program(["python", "-c", code, "{config_file}", "{lr}"], space={"lr": [0.5], "text": ["a 'b' ü"]}, seeds=[7])
    assert json.loads(log_of(ran)) == [{"lr": 0.5, "text": "a 'b' ü", "seed": 7}, "a 'b' ü", "7"]
    assert not list(ran.sweep.path.rglob("params.json"))


@pytest.mark.parametrize(
    "command",
    [
        ["sh", "-c", 'for i in 1 2 3; do echo "step=$i loss=0.$i"; done; echo lr={lr}'],
        ["awk", 'BEGIN {{ for (i = 1; i <= 3; i++) print "step=" i " loss=0." i; print "lr={lr}" }}'],
        [sys.executable, "-c", "for i in 1, 2, 3: print(f'step={{i}} loss=0.{{i}}'); print('lr={lr}')"],
    ],
    ids=["sh", "awk", "python"],
)
def test_programs_in_any_language_report_by_printing(program, command):
    ran = program(command)
    assert ran.ends(ran.trial) == ["completed"]
    *rows, last = metrics_of(ran)
    assert [(step, row["loss"]) for step, row in [*rows, last][:3]] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert "lr=0.5" in log_of(ran)


def test_a_program_may_import_dlcluster_and_log(program):
    code = (
        "import dlcluster\nfor i in range(3): dlcluster.log(loss=1 / (i + 1), step=i)\n"
        "dlcluster.log(extra=float('inf'))"
    )
    ran = program(["python", "-c", code, "{lr}"])
    assert ran.ends(ran.trial) == ["completed"]
    assert metrics_of(ran) == [(0, {"loss": 1.0}), (1, {"loss": 0.5}), (2, {"loss": 1 / 3}), (3, {"extra": None})]


def test_declared_patterns_are_read_from_what_a_program_prints(program):
    ran = program(["sh", "-c", "echo valid loss 0.5; echo loss=3 {lr}"], metrics={"loss": "valid loss ([0-9.]+)"})
    assert metrics_of(ran) == [(1, {"loss": 0.5})]


def test_progress_bars_and_a_last_line_without_an_end_are_read(program):
    ran = program(["printf", "step=1 loss=0.5\\rstep=2 loss=0.4\\rstep=3 loss={lr}"])
    assert metrics_of(ran) == [(1, {"loss": 0.5}), (2, {"loss": 0.4}), (3, {"loss": 0.5})]


@pytest.mark.parametrize(
    ("command", "end"),
    [
        ("exit 3", "failed exit(3)"),
        ("kill -11 $$", "failed crashed(11)"),
        ("kill -6 $$", "failed crashed(6)"),
        ("echo loss=nan; sleep 60", "failed diverged"),
        ("echo n=" + "9" * 40 + "; echo '{\"\": 1}'; exit 0", "completed"),
    ],
)
def test_the_end_of_a_program_is_named(program, command, end):
    ran = program(["sh", "-c", command.replace("{", "{{").replace("}", "}}") + " # {lr}"])
    assert ran.ends(ran.trial) == [end]
    check_files(ran.sweep.path)


@pytest.mark.parametrize(("command", "reason"), [("kill -9 $$", "killed(9)"), ("exit 75", "exit(75)")])
def test_a_program_that_is_killed_or_wants_to_go_on_is_started_again_three_times(program, command, reason):
    ran = program(["sh", "-c", command + " # {lr}"])
    state = {"killed(9)": "failed", "exit(75)": "interrupted"}[reason]
    assert ran.ends(ran.trial) == [f"{state} {reason}"] * 3
    assert f"{reason}, no progress in 3 attempts" in json.dumps(ran.status())


def test_a_program_that_is_missing_is_named(program):
    ran = program(["no-such-program", "{lr}"])
    assert ran.ends(ran.trial) == ["failed exception"]
    assert "no-such-program: No such file or directory" in ran.rows(ran.trial, 1)[-1]["message"]


def test_a_program_is_not_waited_for_by_the_children_it_leaves(program):
    ran = program(["sh", "-c", "(sleep 600) & (yes) & echo loss={lr}; printf last=1; exit 0"])
    assert ran.ends(ran.trial) == ["completed"]
    assert metrics_of(ran)[0] == (1, {"loss": 0.5})
    assert ran.rows(ran.trial, 1)[-1]["seconds"] < 10


def test_a_program_that_closes_its_output_is_waited_for_and_can_be_stopped(program):
    ran = program(["sh", "-c", "echo loss={lr}; exec >&- 2>&-; sleep 0.3; exit 4"])
    assert ran.ends(ran.trial) == ["failed exit(4)"]


SAVING = """
trap 'echo "$i" > "$1/state"; exit 0' TERM
i=$(cat "$1/state" 2>/dev/null || echo 0)
while [ "$i" -lt 40 ]; do i=$((i + 1)); echo "step=$i loss=0.$i"; sleep 0.05; done
"""


def test_a_program_saves_when_asked_and_goes_on_from_its_own_checkpoint(project):
    (project.root / "train.sh").write_text(SAVING)
    project.write_spec(
        job=None, command="sh train.sh {trial_dir} {lr}", space={"lr": [1]}, fixed={}, launch={"parallel": 1}
    )
    worker = start_worker(project, submit(project))
    (trial,) = project.trials()
    wait_until(lambda: len(project.rows(trial, 1)) > 10, "ten steps")
    worker.terminate()
    worker.communicate(timeout=20)
    assert project.ends(trial) == ["interrupted stop_requested"]
    run_worker(project, submit(project))
    assert project.ends(trial) == ["interrupted stop_requested", "completed"]
    steps = [row["step"] for row in history_of(project.sweep.trial(trial)).metrics]
    assert steps == list(range(1, 41))
    resumed = next(row["step"] for row in project.rows(trial, 2) if row["kind"] == "resume")
    logged = [row["step"] for row in project.rows(trial, 1) if row["kind"] == "metrics"]
    assert abs(resumed - logged[-1]) <= 1


def test_a_program_that_reacts_slowly_has_all_of_its_grace(project):
    """It is asked by one SIGTERM, once, and nothing more comes until the end."""
    command = "trap 'sleep 1.5; echo saved=1; exit 0' TERM; echo loss={lr}; while :; do sleep 0.1; done"
    project.write_spec(
        job=None,
        command=["bash", "-c", command],
        space={"lr": [1]},
        fixed={},
        launch={"parallel": 1, "grace": "2s"},
    )
    worker = start_worker(project, submit(project))
    (trial,) = project.trials()
    wait_until(lambda: len(project.rows(trial, 1)) > 1, "the first row")
    worker.terminate()
    worker.communicate(timeout=20)
    assert project.ends(trial) == ["interrupted stop_requested"]
    project.trial = trial
    assert {"saved": 1} in [row for _step, row in metrics_of(project)]


def test_a_program_that_ignores_sigterm_is_killed_at_the_end_of_its_grace(project):
    project.write_spec(
        job=None,
        command=["sh", "-c", "trap '' TERM; echo loss={lr}; while :; do sleep 0.1; done"],
        space={"lr": [1]},
        fixed={},
        launch={"parallel": 1, "grace": "1s"},
    )
    worker = start_worker(project, submit(project))
    (trial,) = project.trials()
    wait_until(lambda: len(project.rows(trial, 1)) > 1, "the first row")
    worker.terminate()
    worker.communicate(timeout=10)
    end = project.rows(trial, 1)[-1]
    assert (end["state"], end["reason"]) == ("interrupted", "stop_requested")


def test_a_program_finds_its_folder_and_runs_in_the_spec_s_cwd(project):
    (project.root / "inner").mkdir()
    (project.root / "inner" / "here.txt").write_text("x")
    project.write_spec(
        job=None,
        command=["sh", "-c", "test -f here.txt && test -d {trial_dir} && echo loss={lr} {trial_id}"],
        space={"lr": [1]},
        fixed={},
        cwd="inner",
        launch={"parallel": 1},
    )
    run_worker(project, submit(project))
    assert project.ends(project.trials()[0]) == ["completed"]


SAVES_ITS_OWN = """
import os, pathlib, sys
state = pathlib.Path(os.environ["DLCLUSTER_TRIAL_DIR"], "state.txt")
begin = int(state.read_text()) if state.exists() else 0
for step in range(begin + 1, 11):
    print(f"step={{step}} loss={{1 / step}}", flush=True)
    SAVE
    if step == begin + 2 < 10:
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(
    ("save", "expected"),
    [
        ("state.write_text(str(step))", [*["failed killed(9)"] * 4, "completed"]),
        ("pass", ["failed killed(9)"] * 4),  # the first has got somewhere; then three have not got further
    ],
)
def test_a_program_that_saves_its_own_state_and_gets_further_goes_on(program, save, expected):
    ran = program([sys.executable, "-c", SAVES_ITS_OWN.replace("SAVE", save)])
    assert ran.ends(ran.trial) == expected
    if expected[-1] == "completed":
        assert [step for step, _metrics in metrics_of(ran)] == list(range(1, 11))
