"""Batch scripts: golden files, what sbatch and bash make of them, and what is refused."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dlcluster.launch import batch_script
from dlcluster.launch.batch_script import (
    BatchScript,
    OptionRefused,
    array_text,
    clean_environment,
    format_time,
    make_options,
)
from dlcluster.launch.directives import FIELDS, OWNED, parse_directives

GOLDEN = Path(__file__).parent / "golden"
LAUNCH = {"cpus": 4, "mem": "16G", "gpus": None, "gpu_type": None, "nodes": 1, "extra_args": []}
GIVEN = {
    "job_name": "lr-20260101T120000-7f3a9c-000",
    "comment": "dlcluster:lr:20260101T120000-7f3a9c",
    "chdir": "/home/ada/runs/lr",
    "log": "/home/ada/runs/lr/submissions/20260101T120000-7f3a9c/logs",
    "array": None,
    "signal_s": 120,
    "time_s": 14_400.0,
}
COMMAND = ("/home/ada/venv/bin/python", "-m", "dlcluster.worker", "/home/ada/runs/lr", "--submission", "x-7f3a9c")


def options_for(launch=None, **given):
    return make_options({**LAUNCH, **(launch or {})}, **{**GIVEN, **given})


def script_for(launch=None, setup=(), command=COMMAND, **given):
    return BatchScript(options_for(launch, **given), tuple(setup), command)


SCRIPTS = {
    "plain": lambda: script_for(),
    "gpus": lambda: script_for({"gpus": 2, "gpu_type": "a100", "partition": "gpu", "account": "ml", "qos": "low"}),
    "array": lambda: script_for({"gpus": 1, "constraint": "(a100|h100)&nvme"}, array=array_text(500, 50)),
    "setup": lambda: script_for(setup=["module load cuda/12.1", 'export CACHE="$HOME/a b"', "# done"], time_s=None),
    "nodes": lambda: script_for(
        {"nodes": 2, "processes_per_node": 4, "gpus": 4, "extra_args": ["--exclusive", "--reservation=class"]},
        time_s=90_061.5,
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_golden_scripts(name):
    """After a wanted change: DLCLUSTER_WRITE_GOLDEN=1 pytest tests/launch/test_batch_script.py, and read the diff."""
    file, text = GOLDEN / f"{name}.sh", SCRIPTS[name]().text()
    if os.environ.get("DLCLUSTER_WRITE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text(), f"{file} differs; see the docstring of this test"


@pytest.mark.parametrize("name", SCRIPTS)
def test_golden_scripts_are_bash(name):
    subprocess.run(["bash", "-n", GOLDEN / f"{name}.sh"], check=True)


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_option_changes_what_bash_runs(name):
    script = SCRIPTS[name]()
    bare = BatchScript((), script.setup, script.command)
    assert without_comments(script.text()) == without_comments(bare.text())


def without_comments(text):
    return [line for line in text.splitlines() if line and not line.startswith("#")]


# -- what bash makes of them


def run_script(tmp_path, *setup, command=("/bin/sh", "-c", 'echo "reached $MARK $*"', "worker"), env=None):
    file = tmp_path / "job.sh"
    file.write_text(script_for(setup=setup, command=command).text())
    return subprocess.run(
        ["bash", str(file)],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], **(env or {})},
        check=False,
    )


def test_what_setup_exports_reaches_the_worker(tmp_path):
    done = run_script(tmp_path, "if true; then", "  export MARK='a  b'", "fi", "false || true")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"reached a  b --elapsed [0-9]+\n", done.stdout)


def test_the_worker_learns_how_long_setup_has_taken(tmp_path):
    done = run_script(tmp_path, "SECONDS=$((SECONDS + 100))")
    assert int(done.stdout.split()[-1]) in (100, 101)


@pytest.mark.parametrize(
    ("setup", "named"),
    [
        (["module load nope"], "module load nope (exit code 127)"),
        (["module() { echo 'no such module' >&2; false; }", "module load nope"], "module load nope (exit code 1)"),
        (["true", "false", "echo never"], "false (exit code 1)"),
        (["f() { cd /nonexistent; }", "f"], "f (exit code 1)"),
        (["true", "eval 'exit 5'"], "eval 'exit 5' (exit code 5)"),
        (["x=$(false)"], "x=$(false) (exit code 1)"),
        (["source /nonexistent/activate"], "source /nonexistent/activate (exit code 1)"),
        (["set -u", "echo $nothing"], "echo $nothing (exit code 1)"),
        (["exit 0"], "exit 0 (exit code 0)"),
        (["exit 3"], "exit 3 (exit code 3)"),
        (["cat <<EOF"], "bash cannot read the lines, see above (exit code 2)"),
        (["if true; then"], "bash cannot read the lines, see above (exit code 2)"),
        (['echo "unclosed'], "bash cannot read the lines, see above (exit code 2)"),
        (["}"], "bash cannot read the lines, see above (exit code 2)"),
        (["nope \\"], "nope (exit code 127)"),
    ],
)
def test_setup_that_fails_ends_the_job_and_is_named(tmp_path, setup, named):
    done = run_script(tmp_path, *setup)
    assert done.returncode == 78
    assert "reached" not in done.stdout
    assert done.stderr.splitlines()[-1] == f"dlcluster worker: setup failed: {named}"


@pytest.mark.parametrize("setup", [["# only a comment"], [""], ["true \\"], ["#SBATCH --nodes=9"], ["set +e", "false"]])
def test_setup_that_does_nothing_is_fine(tmp_path, setup):
    done = run_script(tmp_path, *setup)
    assert (done.returncode, done.stdout[:7]) == (0, "reached")


def test_without_setup_nothing_is_guarded(tmp_path):
    done = run_script(tmp_path)
    assert done.returncode == 0
    assert "setup" not in (tmp_path / "job.sh").read_text()


def test_the_worker_starts_with_signals_ignored_private_files_and_python_unbuffered(tmp_path):
    shell = 'kill -USR1 $$; kill -TERM $$; echo "$(umask) $PYTHONUNBUFFERED $SLURM_EXPORT_ENV"'
    done = run_script(tmp_path, "true", command=("/bin/sh", "-c", shell))
    assert (done.returncode, done.stdout) == (0, "0077 1 ALL\n")


def test_the_worker_is_the_process_that_slurm_has_started(tmp_path):
    file = tmp_path / "job.sh"
    file.write_text(script_for(setup=["true"], command=("/bin/sh", "-c", "echo $$")).text())
    with subprocess.Popen(["bash", str(file)], stdout=subprocess.PIPE, text=True) as process:
        assert int(process.communicate()[0]) == process.pid


def test_a_worker_that_is_not_there_is_no_failure_of_setup(tmp_path):
    done = run_script(tmp_path, "true", command=("/nonexistent/python",))
    assert done.returncode == 127
    assert "setup failed" not in done.stderr


@given(st.lists(st.text(max_size=20), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(["$(touch x)", "`id`", "a'b", '"; exit 1; "', "\\", "-n", "é\u202e"])
def test_words_of_the_command_arrive_as_they_are(tmp_path, words):
    try:
        text = script_for(command=("/usr/bin/printf", "%s\\0", *words)).text()
    except OptionRefused as refused:
        assert refused.key == "command"
        return
    (tmp_path / "job.sh").write_text(text)
    done = subprocess.run(["bash", str(tmp_path / "job.sh")], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[: len(words)] == words


# -- what sbatch makes of them


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#!/bin/bash\n#SBATCH --a=1 --b\n\n# c\n  #d\n#SBATCH\t--c=2\nls\n#SBATCH --d=3\n", ["--a=1", "--b", "--c=2"]),
        ("#SBATCH --a=b#c --d\n", ["--a=b"]),
        ("#SBATCH '--a=b#c' --d\n", ["--a=b#c", "--d"]),
        ("#SBATCH --a='b\\c' \\# \"x y\"\n", ["--a=bc", "#", "x y"]),
        ("#SBATCH a\\ b\n", ["a", "b"]),
        ('#SBATCH --a "" --b\n#SBATCH --c\n', ["--a", "--c"]),
        ("#SBATCHx\n#SLURM --y\n # SBATCH no\n#SBATCH --z\0--n\n", ["x", "--y", "--z"]),
        ("trap '' TERM\n#SBATCH --a\n", []),
    ],
)
def test_directives_are_read_as_sbatch_reads_them(text, words):
    """Each of these was given to sbatch 22.05.8, and 5000 random ones with the same result."""
    assert parse_directives(text) == words


@pytest.mark.parametrize("line", ["--a='b", '--a="', "--a : --b", ":", "hetjob", "--a packjob --b", "--a\r"])
def test_directives_that_sbatch_refuses(line):
    with pytest.raises(ValueError):
        parse_directives(f"#SBATCH {line}\n")


def any_text():
    nasty = st.sampled_from(
        [*"\n\r\t\0 '\"#\\;$`&|*%~!()[]{}<>é", "\n#SBATCH --qos=x", "\u2028", "$(id)", "--", "=", "a"]
    )
    nearly = st.text("ab09._:/-=@+,[]%&|()* #", max_size=10)
    return st.one_of(st.text(max_size=12), st.lists(nasty, max_size=8).map("".join), nearly, nearly.map("/".__add__))


KEYS_OF_LAUNCH = ("mem", "partition", "account", "qos", "constraint", "gpu_type", "gpus", "cpus")
FUZZED = (*KEYS_OF_LAUNCH, "job_name", "comment", "chdir", "log", "array", "extra_args")


def check_value(key, value):
    """Refused, or read by sbatch as it is meant; nothing that bash runs changes."""
    launch = {"gpus": 1}
    if key in KEYS_OF_LAUNCH:
        launch[key] = value
    elif key == "extra_args":
        launch[key] = [f"--licenses={value}", value]
    try:
        options = options_for(launch, **({key: value} if key in GIVEN else {}))
        text = BatchScript(options, (), COMMAND).text()
    except OptionRefused:
        return
    words = parse_directives(text)
    assert words == [f"--{name}" if v is None else f"--{name}={v}" for name, v in options]
    assert without_comments(text) == without_comments(script_for().text())
    names = [name for name, _value in options[: 10 if key == "extra_args" else None]]
    assert len(names) == len(set(names))
    assert any(value in word for word in words)


@pytest.mark.parametrize("key", FUZZED)
@given(value=any_text())
@settings(max_examples=150, deadline=None)
@example(value="gpu\n#SBATCH --qos=x")
@example(value="a b")
@example(value="a#b")
@example(value="'a\\b'")
@example(value="\n")
@example(value="gpu\n")
@example(value="gpu")
@example(value="7")
@example(value="16G")
@example(value="/runs/lr")
@example(value="/runs/lr\n")
@example(value="/runs/50%t")
@example(value="--licenses=matlab@host:2")
@example(value="--exclusive\nrm")
def test_any_value_is_refused_or_read_by_sbatch_as_it_is_meant(key, value):
    check_value(key, value)


@pytest.mark.long
@pytest.mark.parametrize("key", FUZZED)
@given(value=any_text())
@settings(max_examples=7200, deadline=None)
def test_any_of_100000_values_is_refused_or_read_as_it_is_meant(key, value):
    check_value(key, value)


@pytest.mark.parametrize("option", [*FIELDS, "reservation"])
@given(value=any_text())
@settings(max_examples=40, deadline=None)
@example(value="x\n")
@example(value="١")
@example(value="")
def test_no_option_of_a_script_escapes_its_field(option, value):
    script = BatchScript(((option, value), ("requeue", None)), (), COMMAND)
    try:
        text = script.text()
    except OptionRefused:
        return
    assert parse_directives(text) == [f"--{option}={value}", "--requeue"]


def test_what_is_wrong_with_a_value_is_said():
    with pytest.raises(OptionRefused) as caught:
        options_for({"partition": "gpu\n#SBATCH --qos=x"})
    assert caught.value.key == "partition"
    assert "'gpu\\n#SBATCH --qos=x' (character U+000A)" in str(caught.value)


@pytest.mark.parametrize("path", ["/home/ada/my runs/lr", "/home/ada/läufe", "/runs/100%", "runs/lr", "/runs/#1"])
@pytest.mark.parametrize("argument", ["chdir", "log"])
def test_paths_that_cannot_stand_in_a_directive_come_with_a_hint(argument, path):
    with pytest.raises(OptionRefused, match="move the runs directory") as caught:
        options_for(**{argument: path})
    assert caught.value.key == "runs-dir"


@pytest.mark.parametrize(
    ("launch", "key"),
    [
        ({"gpu_type": "a100"}, "gpu_type"),
        ({"mem": "1.5G"}, "mem"),
        ({"mem": "16 G"}, "mem"),
        ({"mem": "١٦G"}, "mem"),
        ({"cpus": -1}, "cpus"),
        ({"gpus": -1}, "gpus"),
        ({"constraint": "a & b"}, "constraint"),
        ({"partition": "a b"}, "partition"),
        ({"partition": "gpu\n"}, "partition"),
        ({"account": ""}, "account"),
        ({"constraint": "a#b"}, "constraint"),
        ({"account": "x" * 5000}, "account"),
    ],
)
def test_values_of_launch_that_are_refused(launch, key):
    with pytest.raises(OptionRefused) as caught:
        options_for(launch)
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        ({"setup": ("a\0b",)}, "setup"),
        ({"setup": ("a\rb",)}, "setup"),
        ({"setup": ("\udc80",)}, "setup"),
        ({"command": ("a\nb",)}, "command"),
        ({"command": ()}, "command"),
        ({"command": ("-x",)}, "command"),
        ({"umask": "077; id"}, "umask"),
        ({"options": (("nodes", None),)}, "nodes"),
        ({"options": (("requeue", "yes"),)}, "requeue"),
        ({"options": (("a b", "x"),)}, "a b"),
        ({"options": (("x\n", "x"),)}, "x\n"),
    ],
)
def test_parts_of_a_script_that_are_refused(parts, key):
    with pytest.raises(OptionRefused) as caught:
        BatchScript(**{"options": (), "setup": (), "command": COMMAND, **parts}).text()
    assert caught.value.key == key


def test_a_script_that_sbatch_would_read_otherwise_is_refused(monkeypatch):
    """The last line of defence, should a whitelist ever be too wide."""
    monkeypatch.setattr(batch_script, "check_option", lambda *_: None)
    for value in ("a b", "a#b", "a\\b", "'a'", "a\n#SBATCH --qos=x", "a\nrm -r x"):
        with pytest.raises((OptionRefused, ValueError)):
            BatchScript((("reservation", value),), (), COMMAND).text()


@pytest.mark.parametrize("owned", sorted(OWNED))
def test_options_that_dlcluster_sets_cannot_be_given_again(owned):
    for word in (f"--{owned}=1", f"--{owned}"):
        with pytest.raises(OptionRefused) as caught:
            options_for({"extra_args": [word]})
        assert (caught.value.key, bool(caught.value.hint)) == ("extra_args", True)


@pytest.mark.parametrize(
    "word", ["--job-nam=x", "--arr=1", "--sig=9", "--gpus-per=1", "--n=1", "--requ", "--no-r", "--c=1"]
)
def test_an_abbreviation_is_no_way_round(word):
    with pytest.raises(OptionRefused, match="is short for"):
        options_for({"extra_args": [word]})


@pytest.mark.parametrize(
    "word", ["-N2", "-J x", "--reservation x", "exclusive", "--", "", ":", "--=x", "--mail-user=a b"]
)
def test_extra_arguments_that_are_no_long_option(word):
    with pytest.raises(OptionRefused) as caught:
        options_for({"extra_args": [word]})
    assert caught.value.key == "extra_args"


@pytest.mark.parametrize(
    ("word", "key"), [("--gres=gpu:1", "gpus"), ("--mem-per-cpu=2G", "mem"), ("--mem-per-gpu=2G", "mem")]
)
def test_extra_arguments_that_say_what_a_key_says(word, key):
    without = {"gpus": None, "mem": None}
    assert parse_directives(script_for({**without, "extra_args": [word]}).text())[-1] == word
    with pytest.raises(OptionRefused, match=f"beside {key}:"):
        options_for({**without, key: {"gpus": 1, "mem": "1G"}[key], "extra_args": [word]})


def test_extra_arguments_come_after_all_of_ours():
    """A flag that wants a value after all takes the next word for it (seen with sbatch 22.05.8)."""
    names = [name for name, _value in options_for({"partition": "gpu", "extra_args": ["--reservation", "--nice=5"]})]
    assert names[-2:] == ["reservation", "nice"]


@pytest.mark.parametrize("signal_s", [0, -1, 65_536])
def test_a_margin_that_slurm_cannot_store(signal_s):
    with pytest.raises(OptionRefused, match="margin"):
        options_for(signal_s=signal_s)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1, "00:00:01"),
        (0.2, "00:00:01"),
        (59.5, "00:01:00"),
        (900, "00:15:00"),
        (14_400, "04:00:00"),
        (86_399, "23:59:59"),
        (86_400, "1-00:00:00"),
        (90_061.5, "1-01:01:02"),
        (31_536_000, "365-00:00:00"),
    ],
)
def test_times_are_never_a_bare_number(seconds, text):
    assert format_time(seconds) == text


@pytest.mark.parametrize("seconds", [0, -5, float("nan"), float("inf")])
def test_times_that_slurm_would_take_for_no_limit(seconds):
    with pytest.raises(OptionRefused, match="time"):
        format_time(seconds)


@pytest.mark.parametrize(
    ("n", "throttle", "text"),
    [
        (1, None, "0"),
        (1, 5, "0"),
        (10, None, "0-9"),
        (10, 4, "0-9%4"),
        (10, 10, "0-9"),
        (10, 99, "0-9"),
        (2, 1, "0-1%1"),
    ],
)
def test_arrays(n, throttle, text):
    assert array_text(n, throttle) == text


@pytest.mark.parametrize(("n", "throttle"), [(0, None), (10, 0), (10, -1)])
def test_arrays_that_are_refused(n, throttle):
    with pytest.raises(OptionRefused, match="parallel"):
        array_text(n, throttle)


# -- the environment of sbatch

ALWAYS = {
    **dict.fromkeys(("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH"), "x"),
    **dict.fromkeys(("LC_ALL", "LC_CTYPE", "MODULEPATH", "SLURM_CONF", "SLURM_BITSTR_LEN"), "x"),
}
FOR_MODULES = {
    **dict.fromkeys(("MODULESHOME", "LMOD_CMD", "LMOD_PKG", "MODULES_CMD", "BASH_ENV"), "x"),
    **dict.fromkeys(
        ("BASH_FUNC_module%%", "BASH_FUNC_ml%%", "BASH_FUNC__module_raw%%", "BASH_FUNC_module()"), "() { :; }"
    ),
}
DROPPED = {
    *("SBATCH_PARTITION", "SBATCH_EXPORT", "SRUN_CPUS_PER_TASK", "SLURM_JOB_ID", "SLURM_JWT", "SLURM_NTASKS"),
    *("SALLOC_X", "SQUEUE_FORMAT", "SCANCEL_STATE", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "DB_PASSWORD"),
}
LOADED = (
    "LOADEDMODULES",
    "_LMFILES_",
    "_ModuleTable001_",
    "LMOD_FAMILY_COMPILER",
    "CUDA_HOME",
    "VIRTUAL_ENV",
    "FOO",
    "foo",
)


def test_the_environment_of_sbatch():
    environ = {**ALWAYS, **FOR_MODULES, **dict.fromkeys([*DROPPED, *LOADED], "x"), "BASH_FUNC_evil%%": "() { :; }"}
    assert clean_environment(environ) == {**ALWAYS, **FOR_MODULES}


def test_names_that_the_spec_passes_on():
    assert clean_environment({"FOO": "1", "BAR": "2"}, keep=["FOO", "NOT_THERE"]) == {"FOO": "1"}


@pytest.mark.parametrize("name", sorted(DROPPED))
def test_neither_secrets_nor_what_changes_sbatch_can_be_passed_on(name):
    assert clean_environment({name: "x"}, keep=[name]) == {}


def test_module_load_works_in_setup(tmp_path):
    """The function reaches the script through the environment, as Lmod and Environment Modules export it."""
    environ = {**os.environ, "BASH_FUNC_module%%": '() {  export LOADED="$2"\n}', "LOADEDMODULES": "cuda"}
    command = ("/bin/sh", "-c", 'echo "$LOADED $LOADEDMODULES"')
    done = run_script(tmp_path, "module load cuda", command=command, env=clean_environment(environ))
    assert (done.returncode, done.stdout) == (0, "cuda \n")
