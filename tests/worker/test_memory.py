"""Whether the kernel has killed for want of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlcluster.worker import memory
from dlcluster.worker.forkserver import Forker, ZygoteFailed
from dlcluster.worker.memory import OomCounter, n_oom_kills
from dlcluster.worker.shared_page import SharedPage
from dlcluster.worker.stopping import SignalLog


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", 3),
        ("low 0\nhigh 0\nmax 5\noom 2\noom_kill 1\noom_group_kill 0\n", 1),
        ("oom_kill_disable 1\nunder_oom 0\n", None),
        ("", None),
    ],
)
def test_the_counter_of_either_kind_of_cgroup_is_read(tmp_path, text, expected):
    file = tmp_path / "counter"
    file.write_text(text)
    assert n_oom_kills(file) == expected


def test_a_missing_file_counts_nothing(tmp_path):
    assert n_oom_kills(tmp_path / "missing") is None


def test_the_narrowest_counter_that_can_be_read_is_used(tmp_path, monkeypatch):
    narrow, wide = tmp_path / "narrow", tmp_path / "wide"
    wide.write_text("oom_kill 100\n")
    monkeypatch.setattr(memory, "counter_files", lambda: [tmp_path / "unreadable", narrow, wide])
    narrow.write_text("oom_kill 2\n")
    counter = OomCounter()
    wide.write_text("oom_kill 101\n")
    assert not counter.has_risen()
    narrow.write_text("oom_kill 3\n")
    assert counter.has_risen()
    counter.reset()
    assert not counter.has_risen()


def test_without_any_counter_nothing_has_risen(monkeypatch):
    monkeypatch.setattr(memory, "counter_files", list)
    assert not OomCounter().has_risen()


def test_our_own_counters_are_found():
    files = memory.counter_files()
    assert files[-1] == Path("/proc/vmstat")
    assert any(n_oom_kills(file) is not None for file in files)


@pytest.mark.parametrize(
    ("n_kills", "in_job", "message"),
    [
        (3, True, "was killed: out of memory; give it more with launch.mem"),
        (3, False, "was killed: out of memory"),
        (2, True, "has died"),
    ],
)
def test_an_import_that_was_killed_for_want_of_memory_says_so(tmp_path, monkeypatch, n_kills, in_job, message):
    counter = tmp_path / "memory.events"
    counter.write_text("oom_kill 2\n")
    monkeypatch.setattr(memory, "counter_files", lambda: [counter])
    kill = f"open({str(counter)!r}, 'w').write('oom_kill {n_kills}\\n')\nimport os\nos.kill(os.getpid(), 9)\n"
    (tmp_path / "hungry.py").write_text(kill)
    rules = {"job": "hungry", "code": str(tmp_path), "command": None, "tensorboard": False, "in_job": in_job}
    forker = Forker(SharedPage(), rules, SignalLog())
    with pytest.raises(ZygoteFailed) as raised:
        forker.start(lambda: True)
    assert str(raised.value) == f"the process that imports the job {message}"
    forker.close()
