"""The ordinary user to whom jobs and tests belong."""

from __future__ import annotations

import os
import pwd
import subprocess

from .commands import run, wait_for
from .errors import DevClusterError
from .layout import Layout

PASSWORD_FILE_BUSY = 1  # useradd: somebody else holds the lock
NAME_TAKEN = 9


def ensure_user(name: str) -> pwd.struct_passwd:
    """Make the user unless there is one of this name. It cannot log in with a password."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        pass

    def added() -> subprocess.CompletedProcess[str] | None:
        done = run(["useradd", "--create-home", "--shell", "/bin/bash", name], check=False)
        return None if done.returncode == PASSWORD_FILE_BUSY else done

    done = wait_for(added, 20)
    if done is None or done.returncode not in (0, NAME_TAKEN):
        said = done.stderr.strip() if done else "the password file is locked"
        raise DevClusterError(f"cannot make the user {name}: {said}", "make one by hand, or name one with --user")
    return pwd.getpwnam(name)


def give_home(layout: Layout, user: pwd.struct_passwd) -> None:
    """A folder inside the cluster's in which the user's jobs may write."""
    os.chown(layout.home, user.pw_uid, user.pw_gid)


def check_can_read(layout: Layout, user: pwd.struct_passwd) -> None:
    """Folders above ours may be closed."""
    test = ["test", "-r", str(layout.slurm_conf)]
    done = subprocess.run(test, user=user.pw_uid, group=user.pw_gid, extra_groups=[], check=False)
    if done.returncode:
        raise DevClusterError(
            f"{user.pw_name} cannot read {layout.slurm_conf}: a folder above it is closed to other users",
            "choose another place with --dir, such as /tmp/dlc",
        )
