"""How a request to stop travels, and what happens to processes that are in the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from dlcluster.worker.shared_page import SharedPage
from dlcluster.worker.stopping import STOP_SIGNALS, Patience, children_of
from tests.support import is_running, wait_until


def run_python(code, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True, **options
    )


def test_a_flag_is_shared_with_forked_processes():
    flag = SharedPage()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        before = flag.is_set()
        os.write(write, b"x")
        end = time.monotonic() + 10
        while not flag.is_set() and time.monotonic() < end:
            pass
        os._exit(0 if flag.is_set() and not before else 1)
    os.read(read, 1)
    flag.set()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    flag.clear()
    assert not flag.is_set()
    os.close(read)
    os.close(write)


SIGNAL_LOG = """
import select, sys
from dlcluster.worker.stopping import SignalLog
log = SignalLog()
log.install()
print("ready", flush=True)
while len(log.received) < int(sys.argv[1] if len(sys.argv) > 1 else 1):
    select.select([log.wake_fd], [], [], 20)
    log.drain()
print(log.received, flush=True)
"""


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_noted_and_wakes_who_waits(number):
    process = run_python(SIGNAL_LOG)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.communicate(timeout=10)[0] == f"[{int(number)}]\n"


def test_signals_that_came_before_anybody_could_hear_them_arrive_later():
    old = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        process = run_python(SIGNAL_LOG)
        process.send_signal(signal.SIGTERM)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
    assert process.communicate(timeout=10)[0] == f"ready\n[{int(signal.SIGTERM)}]\n"


CHILD_OF_A_WORKER = """
import os, signal, sys
from dlcluster.worker.stopping import SignalLog, forget_handlers
log = SignalLog()
log.install()
pid = os.fork()
if pid == 0:
    forget_handlers()
    print("ready", flush=True)
    while True:
        signal.pause()
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, -15), (signal.SIGINT, -2), (signal.SIGHUP, -1), (signal.SIGUSR2, -12)]
)
def test_a_forked_child_dies_of_signals_as_any_program_does(number, code):
    process = run_python(CHILD_OF_A_WORKER)
    process.stdout.readline()
    (child,) = children_of(process.pid)
    os.kill(child, signal.SIGUSR1)  # meant for the worker, if a scheduler sends it to all: no harm
    os.kill(child, number)
    assert process.communicate(timeout=10)[0] == f"{code}\n"


FAMILY = """
import os, signal, sys, time
from dlcluster.worker.stopping import adopt_orphans, children_of, die_with_parent
if sys.argv[1] == "orphans":
    adopt_orphans()
parent = os.getpid()
child = os.fork()
if child == 0:
    die_with_parent(signal.SIGKILL, parent)
    if sys.argv[1] == "orphans" and os.fork() == 0:
        os.setsid()
        time.sleep(600)
    if sys.argv[1] == "orphans":
        os._exit(0)
    time.sleep(600)
if sys.argv[1] == "orphans":
    os.waitpid(child, 0)
    (orphan,) = children_of(parent)
    os.kill(orphan, signal.SIGKILL)
    print(os.waitpid(orphan, 0)[0] == orphan, flush=True)
else:
    print(child, flush=True)
    time.sleep(600)
"""


def run_family(kind):
    return subprocess.Popen([sys.executable, "-c", FAMILY, kind], stdout=subprocess.PIPE, text=True)


def test_a_child_dies_with_its_parent():
    process = run_family("parent")
    child = int(process.stdout.readline())
    assert is_running(child)
    process.kill()
    wait_until(lambda: not is_running(child), "the end of the child", 5)
    process.communicate()


def test_orphans_come_to_us_even_from_another_session():
    assert run_family("orphans").communicate(timeout=20)[0] == "True\n"


def test_a_parent_that_died_just_before_is_noticed():
    process = run_python("from dlcluster.worker.stopping import die_with_parent; die_with_parent(9, 999999999)")
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGKILL


def test_children_are_found_without_the_kernel_s_list(monkeypatch):
    import builtins

    real_open = builtins.open

    def no_children_file(path, *arguments, **options):
        if str(path).endswith("/children"):
            raise FileNotFoundError(path)
        return real_open(path, *arguments, **options)

    process = subprocess.Popen(["sleep", "600"])
    try:
        assert process.pid in children_of(os.getpid())
        monkeypatch.setattr(builtins, "open", no_children_file)
        assert process.pid in children_of(os.getpid())
    finally:
        monkeypatch.undo()
        process.kill()
        process.wait()


def test_patience_can_only_become_shorter():
    now = [100.0]
    patience = Patience(lambda: now[0])
    assert not patience.is_over()
    patience.within(10)
    patience.within(30)
    now[0] = 104.9
    assert not patience.is_time_for_sigterm()
    now[0] = 105.0
    assert patience.is_time_for_sigterm()
    now[0] = 109.9
    assert not patience.is_over()
    patience.until(None, None)
    assert not patience.is_over()
    patience.within(0)
    assert patience.is_over()
