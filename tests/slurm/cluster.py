"""A real Slurm cluster for tests: `slurm/devcluster` as a Python object, and commands as its ordinary user."""

from __future__ import annotations

import os
import pwd
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support import REPOSITORY, Finished, wait_until

DEVCLUSTER = REPOSITORY / "slurm" / "devcluster"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UP_S = 300
UMASK = 0o077
JOB_S = 90  # the scheduler looks at limits and grace times only every 30 s


def why_not_here() -> str:
    """The reason why no cluster can be started on this machine; "" if it can."""
    if os.geteuid() != 0:
        return "a real Slurm cluster needs root"
    if shutil.which("apt-get") is None:
        return "a real Slurm cluster needs Debian or Ubuntu"
    return ""


def install() -> None:
    """All packages, unless they are there."""
    subprocess.run([str(DEVCLUSTER), "install"], check=True, capture_output=True, timeout=900)


class DevCluster:
    """One cluster in a folder of its own. Up and down by hand, or by `with`."""

    def __init__(self, *variants: str, settings: Sequence[str] = (), folder: Path | None = None) -> None:
        self.folder = folder or new_folder()
        self.options = [word for name in variants for word in ("--variant", name)]
        self.options += [word for text in settings for word in ("--set", text)]

    def __enter__(self) -> DevCluster:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.down()

    def command(self, *words: str, code: int | None = 0) -> Finished:
        """`devcluster WORDS --dir ...` as root."""
        argv = [str(DEVCLUSTER), words[0], "--dir", str(self.folder), *words[1:]]
        done = subprocess.run(
            argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=UP_S, check=False, env=self.root_env
        )
        assert code is None or done.returncode == code, f"{argv}: {done.returncode} {done.stdout}{done.stderr}"
        return Finished(done.returncode, done.stdout, done.stderr)

    def up(self) -> str:
        return self.command("up", *self.options).out

    def down(self, *, delete: bool = True) -> None:
        self.command("down", *(["--delete"] if delete else []))
        if delete and self.folder.exists():  # it never came so far that the folder was its own
            shutil.rmtree(self.folder)

    def stop(self, *daemon: str, signal: str = "TERM") -> None:
        """`stop("slurmctld")`, `stop("slurmd", "n1", signal="KILL")`, `stop("node", "n1")` for a power cut."""
        self.command("stop", *daemon, "--signal", signal)

    def start(self, *daemon: str) -> None:
        """Also wakes a daemon that was stopped with the signal STOP."""
        self.command("start", *daemon)

    @property
    def slurm_conf(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def home(self) -> Path:
        """Where the user may write."""
        return self.folder / "home"

    @property
    def user(self) -> pwd.struct_passwd:
        return pwd.getpwuid(self.home.stat().st_uid)

    @property
    def root_env(self) -> dict[str, str]:
        return {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8", "HOME": "/root", "SLURM_CONF": str(self.slurm_conf)}

    @property
    def env(self) -> dict[str, str]:
        """All that a process of the user needs; nothing is taken over from this one."""
        name = self.user.pw_name
        return {**self.root_env, "HOME": str(self.home), "USER": name, "LOGNAME": name, "SHELL": "/bin/bash"}

    def start_as_user(
        self, argv: Sequence[object], *, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """A command of the ordinary user; `env` is added to the clean environment."""
        user = self.user
        return subprocess.Popen(
            [str(word) for word in argv],
            **{
                "env": {**self.env, **(env or {})},
                "cwd": self.home,
                "umask": UMASK,
                "user": user.pw_uid,
                "group": user.pw_gid,
                "extra_groups": [],
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "text": True,
                **options,
            },
        )

    def run_as_user(
        self,
        argv: Sequence[object],
        *,
        code: int | None = 0,
        timeout: float = 60,
        input: str | None = None,
        **more: Any,
    ) -> Finished:
        """To its end; fails the test if it leaves with another code (None: any)."""
        if input is not None:
            more["stdin"] = subprocess.PIPE
        process = self.start_as_user(argv, **more)
        try:
            out, err = process.communicate(input=input, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        finished = Finished(process.returncode, out, err or "")
        assert code is None or finished.code == code, f"{argv}: {finished}"
        return finished

    def run_as_root(self, *argv: str) -> str:
        """Operators' commands, such as scontrol suspend."""
        done = subprocess.run(argv, env=self.root_env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, script: str, *options: str) -> str:
        """A batch script of the user; returns the job id. What the job prints is in `output_of`."""
        words = ["sbatch", "--parsable", f"--output={self.home}/%j.out", "--open-mode=append", *options]
        return self.run_as_user(words, input=f"#!/bin/bash\n{script}\n").out.strip()

    def output_of(self, job: str) -> str:
        path = self.home / f"{job}.out"
        return path.read_text() if path.exists() else ""

    def jobs(self) -> dict[str, str]:
        """State of each job that slurmctld remembers, each array element on its own."""
        lines = self.run_as_root("squeue", "-h", "-r", "-t", "all", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def wait_for_state(self, job: str, *states: str, timeout: float = JOB_S) -> str:
        """Until squeue gives one of these states; returns it."""
        wait_until(lambda: self.jobs().get(job) in states, f"job {job}: {' or '.join(states)}", timeout)
        return self.jobs()[job]

    def accounting(self, job: str) -> list[str]:
        """The states that sacct knows, one for each run of the job, the newest last."""
        words = ["sacct", "-X", "-D", "-n", "-P", "-S", "now-1days", "-j", job, "-o", "State"]
        return self.run_as_user(words).out.split("\n")[:-1]

    def wait_for_nodes(self, timeout: float = JOB_S) -> None:
        """Until every node is idle."""

        def all_idle() -> bool:
            return set(self.run_as_root("sinfo", "-h", "-N", "-o", "%t").split()) == {"idle"}

        wait_until(all_idle, "idle nodes", timeout)

    def user_python(self) -> Path:
        """A Python of this version with our packages, which the user can start. `dlcluster` itself is found by
        PYTHONPATH."""
        if self.run_as_user(["test", "-x", os.path.realpath(sys.executable)], code=None).code == 0:
            return Path(sys.executable)
        return make_user_python(self.home / "venv")


def new_folder() -> Path:
    """Nobody else's, with a path short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="dlc-test-", dir="/tmp"))
    folder.chmod(0o755)
    return folder


def make_user_python(folder: Path) -> Path:
    """A virtual environment over the system's Python that borrows the packages of ours: that of root may lie, or have
    its interpreter, in a home that is closed to others."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    system = shutil.which(f"python{version}", path=SYSTEM_PATH)
    assert system, f"there is no Python {version} in {SYSTEM_PATH} that other users can start"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([system, "-m", "venv", "--without-pip", str(folder)], check=True, capture_output=True)
        packages = folder / "lib" / f"python{version}" / "site-packages"
        borrowed = dict.fromkeys([sysconfig.get_paths()["purelib"], *site.getsitepackages()])
        (packages / "borrowed.pth").write_text("".join(f"{path}\n" for path in borrowed))
    return python
