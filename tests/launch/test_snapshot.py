"""The snapshot holds the code, all of it, nothing else, and stays as it was."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from dlcluster.errors import PreconditionError, UsageError
from dlcluster.files import tree_sha256
from dlcluster.launch import project_files, snapshot
from dlcluster.launch.snapshot import HASH_DIGITS, remove_snapshot, take_snapshot, verify_snapshot
from dlcluster.run_dir import SweepDir
from dlcluster.secret_names import looks_secret


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "project"
    put(folder, "jobs/train.py", "print('hi')")
    put(folder, "setup.cfg")
    yield folder
    for code in folder.rglob("code"):
        for path in code.iterdir():
            remove_snapshot(path)


@pytest.fixture(params=["git", "no git"])
def listing(request, root, monkeypatch, tmp_path):
    """Both ways to read .gitignore have to agree; call the result to turn the project into a repository."""
    if request.param == "no git":
        monkeypatch.setenv("PATH", str(tmp_path / "no programs here"))
        return lambda: None
    return lambda: git(root, "init", "-q")


def git(folder, *arguments):
    name = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always"]
    subprocess.run(["git", *name, *arguments], cwd=folder, check=True, stdin=subprocess.DEVNULL, capture_output=True)


def put(folder, name, text="x", mode=0o644):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def snap(root, runs="runs"):
    runs_dir = root / runs
    return take_snapshot(root, SweepDir(runs_dir / "lr"), runs_dir)


def names(shot_or_path):
    path = getattr(shot_or_path, "path", shot_or_path)
    return {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_symlink() or not p.is_dir()}


def test_a_snapshot_is_named_by_the_content_it_holds(root, listing):
    listing()
    shot = snap(root)
    assert names(shot) == {"jobs/train.py", "setup.cfg"}
    assert shot.path == root / "runs/lr/code" / shot.hash
    assert tree_sha256(shot.path)[:HASH_DIGITS] == shot.hash
    assert verify_snapshot(shot.path, shot.hash)
    assert (shot.n_files, shot.n_bytes) == (2, len("print('hi')") + 1)
    assert (shot.ignored, shot.notes) == ([], [])


def test_equal_content_is_copied_once(root, monkeypatch):
    first = snap(root)
    monkeypatch.setattr(snapshot, "_copy_files", lambda *_: pytest.fail("copied again"))
    assert snap(root).path == first.path


def test_an_edit_makes_another_snapshot_and_leaves_the_first_alone(root):
    first = snap(root)
    put(root, "jobs/train.py", "print('edited')")
    second = snap(root)
    assert first.hash != second.hash
    assert (first.path / "jobs/train.py").read_text() == "print('hi')"
    assert verify_snapshot(first.path, first.hash) and verify_snapshot(second.path, second.hash)


def test_the_copy_is_read_only_and_keeps_the_executable_bit(root):
    put(root, "tool.sh", mode=0o755)
    shot = snap(root)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in [shot.path, *shot.path.rglob("*")]}
    assert modes == {shot.hash: 0o500, "jobs": 0o500, "train.py": 0o400, "setup.cfg": 0o400, "tool.sh": 0o500}


def test_an_executable_bit_is_content(root):
    first = snap(root)
    (root / "setup.cfg").chmod(0o755)
    assert snap(root).hash != first.hash


@pytest.mark.parametrize(
    "name",
    [
        "data/images.bin",
        "test_ledger/ab/0001.json",
        "runs/other/plan.jsonl",
        "jobs/__pycache__/train.cpython-311.pyc",
        "lib/old.pyc",
        "project.egg-info/PKG-INFO",
        ".pytest_cache/v/lastfailed",
        "jobs/.train.py.swp",
        ".git/config",
    ],
)
def test_what_is_never_code_is_left_out(root, listing, name):
    if not name.startswith(".git/"):
        listing()
    put(root, name)
    assert names(snap(root)) == {"jobs/train.py", "setup.cfg"}


def test_only_the_top_level_data_folder_is_data(root, listing):
    listing()
    put(root, "jobs/data/loader.py")
    assert "jobs/data/loader.py" in names(snap(root))


def test_virtual_environments_are_left_out_under_any_name(root, listing):
    listing()
    put(root, "tools/my-env/pyvenv.cfg")
    put(root, "tools/my-env/lib/numpy.py")
    put(root, "conda/conda-meta/history")
    assert names(snap(root)) == {"jobs/train.py", "setup.cfg"}


def test_runs_are_left_out_wherever_they_are(root, listing):
    listing()
    put(root, "old/lr/plan.jsonl")
    put(root, "old/lr/sweep.yaml")
    put(root, "old/lr/trials/0000/x.json")
    assert names(snap(root, "out/here")) == {"jobs/train.py", "setup.cfg"}
    assert names(snap(root, "out/here")) == {"jobs/train.py", "setup.cfg"}


def test_runs_may_lie_beside_the_code(root, listing):
    listing()
    first = snap(root, ".")
    assert names(first) == {"jobs/train.py", "setup.cfg"}
    assert snap(root, ".").hash == first.hash


def test_gitignore_is_obeyed_with_and_without_git(root, listing):
    listing()
    put(root, ".gitignore", "*.log\n/build/\n!keep.log\n# comment\n")
    put(root, "lib/.gitignore", "/local.py\n!important.log\nsub/**/deep\n")
    for name in ("a.log", "keep.log", "build/x", "lib/build/y", "lib/local.py", "local.py", "lib/important.log"):
        put(root, name)
    put(root, "lib/sub/a/b/deep/x")
    assert names(snap(root)) - {".gitignore", "lib/.gitignore"} == {
        *("jobs/train.py", "setup.cfg", "keep.log", "lib/build/y", "local.py", "lib/important.log")
    }


def test_dlclusterignore_has_the_last_word(root, listing):
    listing()
    put(root, ".dlclusterignore", "notes/\n*.csv\n!/data/\n!/.env.example\n")
    for name in ("notes/a.txt", "x.csv", "data/words.py", "data/__pycache__/words.pyc", ".env.example"):
        put(root, name)
    shot = snap(root)
    assert names(shot) == {"jobs/train.py", "setup.cfg", ".dlclusterignore", "data/words.py", ".env.example"}
    assert shot.ignored == []


def test_python_files_in_the_data_folder_are_mentioned(root):
    put(root, "data/loader.py")
    assert "!/data/" in snap(root).notes[0]


SECRETS = [
    *(".env", ".env.local", "sub/.envrc", "cert.pem", "id_rsa", "keys/id_ed25519", "id_work", ".netrc"),
    *(".aws/credentials", ".ssh/config", ".git-credentials", "server.key", "sub/.pypirc", "ID_RSA.bak"),
]


def test_planted_secrets_are_left_out_and_listed(root, listing):
    listing()
    for name in SECRETS:
        put(root, name, "hunter2")
    shot = snap(root)
    assert names(shot) == {"jobs/train.py", "setup.cfg"}
    assert shot.ignored == sorted(SECRETS)
    assert b"hunter2" not in b"".join(p.read_bytes() for p in shot.path.rglob("*") if p.is_file())


def test_tracked_secrets_are_left_out_too(root):
    git(root, "init", "-q")
    put(root, ".env")
    git(root, "add", "-f", ".")
    assert snap(root).ignored == [".env"]


@pytest.mark.parametrize(
    "name", ["id_map.py", "identity", "keys.py", "environment.yml", "env.py", "sshd/readme", "tokenizer.json"]
)
def test_ordinary_names_are_no_secrets(name):
    assert not looks_secret(name)


def test_links_inside_the_project_are_kept_as_relative_ones(root, listing):
    listing()
    put(root, "lib/real/a.py")
    (root / "absolute.py").symlink_to(root / "lib/real/a.py")
    (root / "lib/folder").symlink_to("real")
    (root / "lib/up.py").symlink_to("../jobs/../../project/jobs/train.py")
    (root / "lib/loop").symlink_to(".")
    shot = snap(root)
    assert os.readlink(shot.path / "absolute.py") == "lib/real/a.py"
    assert os.readlink(shot.path / "lib/folder") == "real"
    assert os.readlink(shot.path / "lib/up.py") == "../jobs/train.py"
    assert verify_snapshot(shot.path, shot.hash)
    shutil.copytree(shot.path, root.parent / "elsewhere", symlinks=True)
    assert (root.parent / "elsewhere/lib/up.py").read_text() == "print('hi')"
    assert snap(root).hash == shot.hash


@pytest.mark.parametrize("target", ["/etc/hostname", "../outside.py", "../../..", "/nowhere/at/all"])
def test_a_link_out_of_the_project_is_refused_and_nothing_is_written(root, listing, target):
    listing()
    put(root.parent, "outside.py")
    (root / "lib.py").symlink_to(target)
    with pytest.raises(UsageError, match=r"(?s)lib\.py.*\.dlclusterignore") as caught:
        snap(root)
    assert caught.value.exit_code == 2
    assert not (root / "runs").exists()
    put(root, ".dlclusterignore", "lib.py")
    assert "lib.py" not in names(snap(root))


def test_links_to_runs_environments_and_data_are_no_obstacle(root, listing, tmp_path):
    listing()
    put(tmp_path, "scratch/env/pyvenv.cfg")
    (tmp_path / "scratch/runs").mkdir()
    (tmp_path / "scratch/data").mkdir()
    (root / "runs").symlink_to(tmp_path / "scratch/runs")
    (root / ".venv").symlink_to(tmp_path / "scratch/env")
    (root / "data").symlink_to(tmp_path / "scratch/data")
    shot = snap(root)
    assert names(shot) == {"jobs/train.py", "setup.cfg"}
    assert shot.notes == []


def test_a_link_to_nothing_is_left_out_with_a_note(root, listing):
    listing()
    put(root, "data/big.bin")
    (root / "big").symlink_to("data/big.bin")
    (root / "gone").symlink_to("deleted.py")
    (root / "jobs/.#train.py").symlink_to("me@host.4711")
    shot = snap(root)
    assert names(shot) == {"jobs/train.py", "setup.cfg"}
    assert [note.split(":")[0] for note in shot.notes] == ["left out the link 'big'", "left out the link 'gone'"]


def test_a_tracked_folder_that_became_a_link_is_not_followed(root, tmp_path):
    git(root, "init", "-q")
    put(root, "lib/a.py")
    git(root, "add", ".")
    shutil.rmtree(root / "lib")
    put(tmp_path, "other/a.py", "from outside")
    (root / "lib").symlink_to(tmp_path / "other")
    with pytest.raises(UsageError, match="'lib' -> "):
        snap(root)
    (root / "lib").unlink()
    put(root, "other/a.py")
    (root / "lib").symlink_to("other")
    assert names(snap(root)) == {"jobs/train.py", "setup.cfg", "other/a.py", "lib"}


def test_sockets_and_pipes_are_left_out(root, listing, monkeypatch):
    listing()
    os.mkfifo(root / "pipe")
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("agent.sock")
        assert names(snap(root)) == {"jobs/train.py", "setup.cfg"}


def test_odd_names_survive(root, listing):
    listing()
    odd = {"a\nb.py", 'q"uote.py', "ünï ☃.py", "-rf.py", " lead.py", "back\\slash.py", "tab\t.py", "$(touch x).py"}
    for name in odd:
        put(root, name)
    shot = snap(root)
    assert names(shot) == odd | {"jobs/train.py", "setup.cfg"}
    assert verify_snapshot(shot.path, shot.hash)


def test_a_name_that_is_not_utf8_is_left_out_with_a_note(root, listing):
    listing()
    Path(os.fsdecode(bytes(root) + b"/\xff\xfe.py")).write_text("x")
    shot = snap(root)
    assert names(shot) == {"jobs/train.py", "setup.cfg"}
    assert "not UTF-8" in shot.notes[0] and shot.notes[0].isprintable()


def test_files_deleted_but_still_in_the_index_are_skipped(root):
    git(root, "init", "-q")
    put(root, "gone.py")
    put(root, "folder/gone.py")
    git(root, "add", ".")
    (root / "gone.py").unlink()
    shutil.rmtree(root / "folder")
    put(root, "folder")  # now a file
    assert names(snap(root)) == {"jobs/train.py", "setup.cfg", "folder"}


def test_submodules_and_repositories_inside_are_part_of_the_code(root, tmp_path):
    put(tmp_path, "lib/core.py")
    git(tmp_path / "lib", "init", "-q")
    git(tmp_path / "lib", "add", ".")
    git(tmp_path / "lib", "commit", "-qm", "x")
    git(root, "init", "-q")
    git(root, "submodule", "--quiet", "add", str(tmp_path / "lib"), "vendor/lib")
    git(root, "clone", "-q", str(tmp_path / "lib"), "cloned")
    put(root, "vendor/lib/.gitignore", "*.tmp")
    put(root, "vendor/lib/new.py")
    put(root, "vendor/lib/new.tmp")
    put(root, "vendor/lib/.env")
    shot = snap(root)
    assert names(shot) == {
        *("jobs/train.py", "setup.cfg", ".gitmodules", "cloned/core.py"),
        *("vendor/lib/core.py", "vendor/lib/new.py", "vendor/lib/.gitignore"),
    }
    assert shot.ignored == ["vendor/lib/.env"]


def test_a_project_below_the_top_of_its_repository(root, tmp_path):
    git(tmp_path, "init", "-q")
    put(tmp_path, "not-mine.py")
    put(tmp_path, ".gitignore", "*.log")
    put(root, "x.log")
    assert names(snap(root)) == {"jobs/train.py", "setup.cfg"}


def test_a_project_that_an_outer_repository_ignores_is_not_empty(root, tmp_path):
    git(tmp_path, "init", "-q")
    put(tmp_path, ".gitignore", "*\n")
    assert names(snap(root)) == {"jobs/train.py", "setup.cfg"}


def test_another_owners_repository_is_read_without_git_and_the_user_is_told(root, monkeypatch):
    git(root, "init", "-q")
    put(root, ".gitignore", "*.log")
    put(root, "x.log")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    shot = snap(root)
    assert names(shot) == {"jobs/train.py", "setup.cfg", ".gitignore"}
    assert "dubious ownership" in shot.notes[0] and len(shot.notes) == 1


def test_inside_a_git_hook_the_right_repository_is_read(root, tmp_path, monkeypatch):
    git(root, "init", "-q")
    put(tmp_path, "other/lib.py")
    git(tmp_path / "other", "init", "-q")
    put(tmp_path, "other/.git/info/exclude", "jobs/\n")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "other/.git/index"))
    assert names(snap(root)) == {"jobs/train.py", "setup.cfg"}


def test_a_repositorys_configuration_starts_no_program(root, tmp_path):
    git(root, "init", "-q")
    hook = put(root, "hook.sh", f"#!/bin/sh\ntouch {tmp_path}/canary\n", mode=0o755)
    git(root, "config", "core.fsmonitor", str(hook))
    snap(root)
    assert not (tmp_path / "canary").exists()


def test_too_many_bytes_are_refused_with_the_largest_files(root, listing):
    listing()
    for number in range(12):
        with open(root / f"weights{number:02d}.bin", "wb") as file:
            file.truncate(20_000_000 + number)
    with pytest.raises(UsageError) as caught:
        snap(root)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "240 MB in 14 files" in message and "200 MB and 20000 files" in message and ".dlclusterignore" in message
    shown = [line.split()[-1] for line in message.splitlines() if line.startswith("    ")]
    assert shown == [f"'weights{number:02d}.bin'" for number in range(11, 1, -1)]
    assert not (root / "runs").exists()


def test_too_many_files_are_refused(root, monkeypatch):
    monkeypatch.setattr(project_files, "MAX_FILES", 1)
    with pytest.raises(UsageError, match="in 2 files"):
        snap(root)


def test_a_change_while_copying_names_the_snapshot_by_what_was_copied(root, monkeypatch):
    copy_files = snapshot._copy_files

    def edit_then_copy(files, target):
        put(root, "setup.cfg", "edited meanwhile")
        (root / "jobs/train.py").unlink()
        copy_files(files, target)

    monkeypatch.setattr(snapshot, "_copy_files", edit_then_copy)
    shot = snap(root)
    assert names(shot) == {"setup.cfg"}
    assert verify_snapshot(shot.path, shot.hash)
    assert "changed while it was copied" in shot.notes[0]


def test_a_file_that_disappears_before_it_is_read_is_no_error(root, monkeypatch):
    select = snapshot.select_files

    def select_then_delete(*arguments):
        selection = select(*arguments)
        (root / "setup.cfg").unlink()
        return selection

    monkeypatch.setattr(snapshot, "select_files", select_then_delete)
    shot = snap(root)
    assert names(shot) == {"jobs/train.py"} and verify_snapshot(shot.path, shot.hash)


def test_commands_at_the_same_time_end_with_one_whole_snapshot(root, monkeypatch):
    for number in range(50):
        put(root, f"lib/m{number}.py", str(number))
    all_copied, move = threading.Barrier(4, timeout=30), snapshot._move_into_place
    monkeypatch.setattr(snapshot, "_move_into_place", lambda *a: (all_copied.wait(), move(*a)))
    shots, threads = [], []
    for _ in range(4):
        threads.append(threading.Thread(target=lambda: shots.append(snap(root))))
        threads[-1].start()
    for thread in threads:
        thread.join(60)
    assert len(shots) == 4 and len({shot.path for shot in shots}) == 1
    assert [p.name for p in (root / "runs/lr/code").iterdir()] == [shots[0].hash]
    assert verify_snapshot(shots[0].path, shots[0].hash)


@pytest.mark.parametrize("damage", ["changed", "deleted", "added"])
def test_a_snapshot_that_was_tampered_with_is_noticed_and_taken_again(root, damage):
    shot = snap(root)
    shot.path.chmod(0o700)
    target = shot.path / "setup.cfg"
    target.chmod(0o600)
    {
        "changed": lambda: target.write_text("evil"),
        "deleted": target.unlink,
        "added": lambda: put(shot.path, "__pycache__/jobs.pyc"),
    }[damage]()
    assert not verify_snapshot(shot.path, shot.hash)
    again = snap(root)
    assert again.path == shot.path and verify_snapshot(again.path, again.hash)
    assert "moved aside" in again.notes[0]


def test_a_missing_snapshot_does_not_verify(tmp_path):
    assert not verify_snapshot(tmp_path / "none", "0" * HASH_DIGITS)


def test_a_failed_copy_leaves_nothing_behind(root, monkeypatch):
    def fill_disk(target, data, durable):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(snapshot, "write_bytes", fill_disk)
    with pytest.raises(PreconditionError, match="No space left"):
        snap(root)
    assert list((root / "runs/lr/code").iterdir()) == []


def test_a_project_that_is_not_there(tmp_path):
    with pytest.raises(PreconditionError, match="No such file"):
        take_snapshot(tmp_path / "none", SweepDir(tmp_path / "runs/lr"), tmp_path / "runs")


ORDINARY_USER = """
import os, sys
from pathlib import Path
from dlcluster.errors import PreconditionError
from dlcluster.launch.snapshot import take_snapshot, verify_snapshot
from dlcluster.run_dir import SweepDir
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
root = Path(sys.argv[1])
take = lambda: take_snapshot(root, SweepDir(root / "runs/lr"), root / "runs")
shot = take()
assert verify_snapshot(shot.path, shot.hash) and take().path == shot.path
(root / "jobs/secret.py").chmod(0)
try:
    take()
except PreconditionError as error:
    assert "secret.py" in str(error) and "Permission denied" in str(error), error
else:
    raise AssertionError("an unreadable file was skipped")
"""


def test_an_ordinary_user_can_take_one_and_is_told_what_cannot_be_read(root, tmp_path):
    put(root, "jobs/secret.py")
    git(root, "init", "-q")
    if os.getuid() == 0:  # whom no mode stops
        for path in [root, *root.rglob("*")]:
            os.chown(path, 65534, 65534)
        for parent in (tmp_path, *tmp_path.parents):
            if parent != Path(tempfile.gettempdir()) and Path(tempfile.gettempdir()) in parent.parents:
                parent.chmod(0o755)
    checkout = Path(__file__).parents[2]
    program = [sys.executable, "-c", ORDINARY_USER, str(root)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == 0, done.stderr
