"""Importing a job to look at it: whatever the job does, the command survives and says what happened."""

from __future__ import annotations

import time

import pytest

from dlcluster.launch.job_import import inspect_job


def inspect(folder, text, **options):
    (folder / "job.py").write_text(text)
    return inspect_job("job", folder, **options)


def test_what_a_job_takes(tmp_path):
    text = "def train(run, lr, *, epochs=3, **more):\n    pass\n"
    assert inspect(tmp_path, text) == {
        "ok": True,
        "parameters": {"lr": {"required": True}, "epochs": {"required": False}},
        "takes_any": True,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import time\ntime.sleep(600)", "took more than 1 s"),
        ("import os\nos._exit(0)", "exited during import (code 0)"),
        ("import os\nos.kill(os.getpid(), 9)", "exited during import (code -9)"),
        ("import nowhere_to_be_found", "job.py:1: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("x = (1,\n", "job.py:1: SyntaxError"),
        ("def train():\n    pass", "its first parameter must take the run"),
        ("train = 3", "is not a function but int"),
        ("import sys\nsys.exit('no')", "exited during import"),
    ],
)
def test_what_a_job_does_wrong_is_said(tmp_path, text, expected):
    reply = inspect(tmp_path, text, timeout_s=1.0 if "sleep" in text else 30.0)
    assert not reply["ok"]
    assert expected in reply["message"]


def test_an_import_that_prints_without_end_is_not_read(tmp_path):
    began = time.monotonic()
    reply = inspect(tmp_path, "print('x' * 300_000_000)\ndef train(run):\n    pass\n")
    assert reply["ok"]
    assert time.monotonic() - began < 20


def test_no_bytecode_is_left_in_the_project(tmp_path):
    (tmp_path / "helper.py").write_text("")
    inspect(tmp_path, "import helper\ndef train(run):\n    pass\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["helper.py", "job.py"]


def test_a_child_of_the_import_is_not_waited_for(tmp_path):
    began = time.monotonic()
    text = "import subprocess\nsubprocess.Popen(['sleep', '60'], close_fds=False)\ndef train(run):\n    pass\n"
    assert inspect(tmp_path, text)["ok"]
    assert time.monotonic() - began < 20


def test_a_very_long_message_is_cut(tmp_path):
    reply = inspect(tmp_path, "raise RuntimeError('x' * 1_000_000)")
    assert not reply["ok"]
    assert "RuntimeError: xxx" in reply["message"]
    assert len(reply["message"]) <= 4000
