"""The command line."""

from __future__ import annotations

import argparse
import os
import pwd
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from . import cluster as clusters
from .commands import clean_environment
from .errors import DevClusterError
from .layout import Layout, default_folder
from .packages import check_root, install
from .processes import SIGNALS
from .settings import DEFAULT_USER, VARIANTS, make_settings

EXIT_ERROR = 1
EXIT_NOT_COMPLETE = 3
NODE_DAEMONS = ("slurmd", "node")


def main(words: Sequence[str] | None = None) -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # for: devcluster status | head
    arguments = make_parser().parse_args(words)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except DevClusterError as error:
        print(f"devcluster: {error}", file=sys.stderr)
        return EXIT_ERROR
    except PermissionError as error:
        print(f"devcluster: {error}\n  hint: are you root?", file=sys.stderr)
        return EXIT_ERROR


def make_parser() -> argparse.ArgumentParser:
    variants = "\n".join(f"  {name:15}{variant.meaning}" for name, variant in VARIANTS.items())
    parser = argparse.ArgumentParser(
        prog="devcluster",
        description="A real Slurm cluster of four pretended nodes on one machine.",
        epilog=f"variants, which can be combined:\n{variants}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    _add(verbs, "install", do_install, "install the packages that are missing (Debian, Ubuntu)")
    up = _add(verbs, "up", do_up, "start the cluster, or what does not run of it")
    up.add_argument("--variant", action="append", default=[], metavar="NAME", help="may be given several times")
    up.add_argument("--set", action="append", default=[], metavar="Key=Value", help="a line of slurm.conf")
    up.add_argument("--user", default=DEFAULT_USER, help="to whom jobs belong, made if missing (%(default)s)")
    down = _add(verbs, "down", do_down, "end the cluster and all its jobs")
    down.add_argument("--delete", action="store_true", help="remove the folder too")
    _add(verbs, "status", do_status, "daemons and nodes; exit code 3 if something does not run")
    _add(verbs, "env", do_env, 'shell lines for: eval "$(devcluster env)"')
    run = _add(verbs, "run", do_run, "run a command as the ordinary user, in an environment of its own")
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="PROGRAM ...")
    stop = _add(verbs, "stop", do_stop, "end or signal one daemon")
    _add_daemon(stop)
    stop.add_argument("--signal", default="TERM", choices=SIGNALS)
    kill = _add(verbs, "kill", do_stop, "stop --signal KILL; `kill node n1` cuts the power of a node")
    _add_daemon(kill)
    kill.set_defaults(signal="KILL")
    _add_daemon(_add(verbs, "start", do_start, "start one daemon again, or wake it after --signal STOP"))
    return parser


def _add(verbs: argparse._SubParsersAction, name: str, command: Callable, text: str) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    verb.add_argument("--dir", type=Path, default=default_folder(), help="the folder of the cluster (%(default)s)")
    verb.set_defaults(command=command)
    return verb


def _add_daemon(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("daemon", help="munged, mariadb, slurmdbd, slurmctld, slurmd NODE, node NODE")
    verb.add_argument("node", nargs="?", help="n1, n2, n3 or n4")


def do_install(_arguments: argparse.Namespace) -> int:
    print(install())
    return 0


def do_up(arguments: argparse.Namespace) -> int:
    changed = arguments.variant or arguments.set or arguments.user != DEFAULT_USER
    wanted = make_settings(arguments.variant, arguments.set, arguments.user) if changed else None
    begun = time.monotonic()
    layout = layout_of(arguments)
    cluster = clusters.up(layout, wanted, print)
    print(f"{layout.root} is up after {time.monotonic() - begun:.1f} s: {clusters.describe(cluster.settings)}")
    return 0


def do_down(arguments: argparse.Namespace) -> int:
    layout = layout_of(arguments)
    if not layout.settings.exists():
        print(f"there is no cluster in {layout.root}")
        return 0
    clusters.down(layout, delete_folder=arguments.delete)
    print(f"{layout.root} is down" + (" and deleted" if arguments.delete else ""))
    return 0


def do_status(arguments: argparse.Namespace) -> int:
    cluster = clusters.open_cluster(layout_of(arguments))
    print(f"{cluster.layout.root}: {clusters.describe(cluster.settings)}")
    for name, daemon in cluster.daemons.items():
        process = daemon.process
        state = f"{'stopped' if process.is_stopped else 'running'}, pid {process.pid}" if process else "not running"
        print(f"  {name:12}{state}")
    all_run = len(cluster.alive) == len(cluster.daemons)
    print(cluster.run("sinfo") if all_run else "something does not run: devcluster up starts it")
    return 0 if all_run else EXIT_NOT_COMPLETE


def do_env(arguments: argparse.Namespace) -> int:
    cluster = clusters.open_cluster(layout_of(arguments))
    lines = {
        "SLURM_CONF": cluster.layout.slurm_conf,
        "DEVCLUSTER_DIR": cluster.layout.root,
        "DEVCLUSTER_USER": cluster.settings.user,
    }
    for name, value in lines.items():
        print(f"export {name}={shlex.quote(str(value))}")
    return 0


def do_run(arguments: argparse.Namespace) -> int:
    """Become the user and the program; nothing of this process is left."""
    check_root()
    cluster = clusters.open_cluster(layout_of(arguments))
    if not arguments.words:
        raise DevClusterError("run: which program?", "for example: devcluster run sinfo")
    user = pwd.getpwnam(cluster.settings.user)
    environment = clean_environment(cluster.layout.slurm_conf, user.pw_name, cluster.layout.home)
    os.chdir(cluster.layout.home)
    os.umask(0o077)
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    try:
        os.execvpe(arguments.words[0], arguments.words, environment)  # noqa: S606 - that is what it is for
    except OSError as error:
        raise DevClusterError(f"{user.pw_name} cannot run {arguments.words[0]}: {error.strerror}") from error


def do_stop(arguments: argparse.Namespace) -> int:
    print(clusters.stop(layout_of(arguments), daemon_name(arguments), arguments.signal))
    return 0


def do_start(arguments: argparse.Namespace) -> int:
    print(clusters.start(layout_of(arguments), daemon_name(arguments)))
    return 0


def daemon_name(arguments: argparse.Namespace) -> str:
    """`slurmd n1` is called slurmd.n1 everywhere else."""
    if (arguments.daemon in NODE_DAEMONS) != bool(arguments.node):
        raise DevClusterError(
            f"expected a node after {' and '.join(NODE_DAEMONS)}, and only there", "for example: stop slurmd n1"
        )
    return f"{arguments.daemon}.{arguments.node}" if arguments.node else arguments.daemon


def layout_of(arguments: argparse.Namespace) -> Layout:
    return Layout(arguments.dir.absolute())
