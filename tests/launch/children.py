"""Functions in forked processes: many commands within a test, each of which may be killed, without starting Python."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any


class Child:
    """A forked process that runs one function. It must be waited for, with `result` or `kill`."""

    def __init__(self, function: Callable[[], Any]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        read_end, write_end = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on, where numpy has threads
            self.pid, self._fd = os.fork(), read_end
        if self.pid == 0:
            os.close(read_end)
            code = 70
            try:
                os.write(write_end, json.dumps(function()).encode())
                code = 0
            except SystemExit as leaving:
                code = leaving.code if isinstance(leaving.code, int) else 1
            except BaseException:
                os.write(write_end, json.dumps(traceback.format_exc()).encode())
            finally:
                os._exit(code)
        os.close(write_end)

    def end(self) -> tuple[int, Any]:
        """The exit code (negative for a signal) and what the function returned, or the traceback."""
        data = b""
        while block := os.read(self._fd, 65_536):
            data += block
        os.close(self._fd)
        _pid, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status), json.loads(data) if data else None

    def result(self) -> Any:
        code, value = self.end()
        assert code == 0, value
        return value

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._fd)


def start_child(function: Callable[[], Any]) -> Child:
    return Child(function)


def in_children(functions: Sequence[Callable[[], Any]]) -> list[Any]:
    """What the functions return, run in as many processes at the same time."""
    children = [Child(function) for function in functions]
    return [child.result() for child in children]
