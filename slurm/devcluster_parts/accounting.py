"""The database behind sacct, and who may be billed in it."""

from __future__ import annotations

import secrets

from .commands import clean_environment, run
from .configs import DATABASE, DATABASE_USER, write_secret
from .errors import DevClusterError
from .layout import Layout
from .settings import Settings

ACCOUNT = "dlc"
LIMITED_QOS = "small"
MAX_SUBMIT_JOBS = 20
ALREADY_THERE = ("already exist", "Nothing new added", "Nothing modified")
QUICK = (  # nobody needs this database after a power cut
    *("--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-use-native-aio=0"),
    *("--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M", "--innodb-lock-wait-timeout=900"),
    *("--innodb-flush-method=nosync", "--debug-no-sync"),
    *("--skip-log-bin", "--skip-name-resolve", "--sync-frm=0", "--performance-schema=0"),
)


def make_password(layout: Layout) -> str:
    if not layout.password.exists():
        write_secret(layout.password, secrets.token_urlsafe(24))
    return layout.password.read_text()


def prepare_database(layout: Layout) -> None:
    """The files of an empty database, and the SQL that MariaDB runs at each start before it accepts connections."""
    if not (layout.database / "mysql").is_dir():
        run(
            [
                *("mariadb-install-db", "--no-defaults", f"--datadir={layout.database}", "--user=root"),
                *("--skip-test-db", "--auth-root-authentication-method=socket", *QUICK),
                f"--tmpdir={layout.database_scratch}",
            ],
            timeout_s=120,
        )
    who = f"'{DATABASE_USER}'@'127.0.0.1'"
    write_secret(
        layout.database_start,
        f"CREATE DATABASE IF NOT EXISTS {DATABASE};\n"
        f"CREATE USER IF NOT EXISTS {who} IDENTIFIED BY '{make_password(layout)}';\n"
        f"GRANT ALL ON {DATABASE}.* TO {who};\n",
    )


def mariadb_argv(layout: Layout, port: int) -> tuple[str, ...]:
    return (
        *("mariadbd", "--no-defaults", "--user=root", f"--datadir={layout.database}"),
        *(f"--socket={layout.database}/socket", f"--pid-file={layout.run}/mariadb.pid"),
        *("--bind-address=127.0.0.1", f"--port={port}", f"--log-error={layout.log('mariadb')}"),
        *(f"--init-file={layout.database_start}", f"--tmpdir={layout.database_scratch}", *QUICK),
    )


def register(layout: Layout, settings: Settings) -> None:
    """The cluster, an account, and its users, root among them. Harmless if they are there."""
    _sacctmgr(layout, "add", "cluster", "dlcluster")
    _sacctmgr(layout, "add", "account", ACCOUNT, "cluster=dlcluster")
    _sacctmgr(layout, "add", "user", f"name=root,{settings.user}", f"account={ACCOUNT}")
    if settings.has_limits:
        _sacctmgr(layout, "add", "qos", LIMITED_QOS, f"MaxSubmitJobsPerUser={MAX_SUBMIT_JOBS}")
        allowed = (f"qos=normal,{LIMITED_QOS}", f"defaultqos={LIMITED_QOS}")
        _sacctmgr(layout, "modify", "user", settings.user, "set", *allowed)


def _sacctmgr(layout: Layout, *words: str) -> None:
    argv = ["sacctmgr", "--immediate", "--quiet", *words]
    done = run(argv, clean_environment(layout.slurm_conf), check=False)
    said = done.stdout + done.stderr
    if done.returncode and not any(text in said for text in ALREADY_THERE):
        raise DevClusterError(f"`{' '.join(argv)}` ended with {done.returncode}: {said.strip()}")
