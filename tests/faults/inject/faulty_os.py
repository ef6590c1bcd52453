"""Wraps the functions of `os` that `dlcluster/files.py` and `file_reading.py` call: counts them, notes them, makes the n-th of them fail.

    DLCLUSTER_FAULT=worker/replace:EIO@3    the third os.replace of a worker's own process raises EIO
    DLCLUSTER_FAULT=any/write:ENOSPC@1+     every os.write of every process raises ENOSPC
    DLCLUSTER_CALLS=FILE                    a line a call: role, function, file and line
    DLCLUSTER_RECORD=FILE                   a JSON line an operation, whoever asks for it, on paths below
    DLCLUSTER_RECORD_UNDER=FOLDER           this one: enough to play them on a simulated disk

Roles: command, worker (the supervisor), child (forked from it), any.
"""

import errno
import functools
import json
import os
import re
import sys

NAMES = (
    "open",
    "write",
    "fsync",
    "close",
    "replace",
    "mkdir",
    "chmod",
    "fstat",
    "pread",
    "ftruncate",
    "unlink",
    "listdir",
)
ORIGINAL = {name: getattr(os, name) for name in NAMES}
ORIGINAL_RENAME = os.rename
TARGETS = (os.path.join("dlcluster", "files.py"), os.path.join("dlcluster", "file_reading.py"))


class Fault:
    """Which call fails, and how."""

    def __init__(self, text):
        match = re.fullmatch(r"(\w+)/(\w+):(\w+)@(\d+)(\+?)", text)
        if match is None:
            raise ValueError(f"DLCLUSTER_FAULT: not ROLE/NAME:ERRNO@N: {text!r}")
        self.role, self.name, self.errno = match[1], match[2], getattr(errno, match[3])
        self.number, self.for_ever = int(match[4]), bool(match[5])
        self.count = 0

    def hits(self, name, role):
        if name != self.name or self.role not in (role, "any"):
            return False
        self.count += 1
        return self.count == self.number or (self.for_ever and self.count > self.number)


class Injector:
    """`on_call(name, line)` is told of every call and may raise in its place."""

    def __init__(self, on_call):
        self.on_call = on_call

    def install(self):
        for name in NAMES:
            setattr(os, name, self.wrapped(name))

    def remove(self):
        for name, function in ORIGINAL.items():
            setattr(os, name, function)

    def wrapped(self, name):
        original = ORIGINAL[name]

        @functools.wraps(original)
        def call(*args, **kwargs):
            frame = sys._getframe(1)
            if frame.f_code.co_filename.endswith(TARGETS):
                self.on_call(name, f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}", args)
            return original(*args, **kwargs)

        return call


def broken(number, args):
    """The exception that the real call would raise: with a path if it was given one, without for a descriptor."""
    path = args[0] if args and not isinstance(args[0], int) else None
    return OSError(number, os.strerror(number), *([os.fspath(path)] if path is not None else []))


def install_from_environment():
    if log := os.environ.get("DLCLUSTER_RECORD"):
        Tape(log, os.environ["DLCLUSTER_RECORD_UNDER"]).install()
        return
    home = os.getpid()
    first_role = "worker" if "dlcluster.worker" in sys.orig_argv else "command"
    text, calls = os.environ.get("DLCLUSTER_FAULT"), os.environ.get("DLCLUSTER_CALLS")
    fault = Fault(text) if text else None

    def on_call(name, line, args):
        role = first_role if os.getpid() == home else "child"
        if calls:
            fd = ORIGINAL["open"](calls, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            ORIGINAL["write"](fd, f"{role} {name} {line}\n".encode())
            ORIGINAL["close"](fd)
        if fault and fault.hits(name, role):
            if name == "close":
                ORIGINAL["close"](args[0])  # the descriptor is gone even when close() reports an error
            raise broken(fault.errno, args)

    Injector(on_call).install()


class Tape:
    """Writes down what changes a file system below a folder, in the order in which it happens in all processes."""

    def __init__(self, log, under):
        self.log, self.under = log, os.path.join(under, "")

    def install(self):
        for name in ("open", "write", "fsync", "mkdir", "unlink", "replace", "rename"):
            setattr(os, name, getattr(self, name))

    def note(self, op, path, **more):
        path = os.fspath(path)
        if not os.path.join(path, "").startswith(self.under) or path.endswith(("log.txt", "workers.log")):
            return
        if os.path.join(self.under, "count", "code") in path:
            return  # snapshots are checked by their hash instead
        fd = ORIGINAL["open"](self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        ORIGINAL["write"](fd, json.dumps({"op": op, "path": path, **more}).encode() + b"\n")
        ORIGINAL["close"](fd)

    def path_of(self, fd):
        return os.readlink(f"/proc/self/fd/{fd}")

    def open(self, path, flags, *args, **kwargs):
        fd = ORIGINAL["open"](path, flags, *args, **kwargs)
        if flags & os.O_CREAT:
            self.note("open", path)
        return fd

    def write(self, fd, data):
        n = ORIGINAL["write"](fd, data)
        path = self.path_of(fd)
        if path.startswith(self.under):
            self.note("write", path, data=bytes(data[:n]).hex())
        return n

    def fsync(self, fd):
        ORIGINAL["fsync"](fd)
        self.note("fsync", self.path_of(fd))

    def mkdir(self, path, *args, **kwargs):
        ORIGINAL["mkdir"](path, *args, **kwargs)
        self.note("mkdir", path)

    def unlink(self, path, *args, **kwargs):
        ORIGINAL["unlink"](path, *args, **kwargs)
        self.note("unlink", path)

    def replace(self, source, target, **kwargs):
        ORIGINAL["replace"](source, target, **kwargs)
        self.note("replace", source, to=os.fspath(target))

    def rename(self, source, target, **kwargs):
        ORIGINAL_RENAME(source, target, **kwargs)
        self.note("replace", source, to=os.fspath(target))
