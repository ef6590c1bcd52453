"""Which files are the code of a project.

What git would commit (tracked and untracked, without what .gitignore leaves out), less what is never code (run
directories, the ledger, virtual environments, caches, the top-level `data`), less what looks like a secret, less what
.dlclusterignore names. That file has the syntax of .gitignore and the last word: a line `!/data/` brings `data` in.

Symbolic links inside the project are kept (as relative ones); one that leaves the project is an error, because a copy
that points at live files is no copy. Sockets, pipes and devices are no code: left out, with a note.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

from pathspec import GitIgnoreSpec

from dlcluster.errors import UsageError, shown
from dlcluster.secret_names import looks_secret

MAX_BYTES = 200 * 1000**2
MAX_FILES = 20_000
N_SHOWN = 10
GIT_TIMEOUT_S = 60
# inside a git hook these point at another repository
GIT_POINTERS = frozenset(
    {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_NAMESPACE"}
)

IGNORE_FILE = ".dlclusterignore"
IGNORE_HINT = f"name what no job needs in {IGNORE_FILE} (the syntax of .gitignore) at the top of the project"
DATA_FOLDER = "data"  # at the top of the project only
NEVER_CODE = GitIgnoreSpec.from_lines(
    [
        *("/test_ledger", "__pycache__/", "*.py[co]", "*.egg-info/", ".ipynb_checkpoints/", "node_modules/", ".hg/"),
        *(".svn/", ".pytest_cache/", ".mypy_cache/", ".ruff_cache/", ".hypothesis/", ".tox/", ".nox/"),
        # emacs leaves a dangling link `.#name`, and vim a file `.name.swp`, beside every file that is being edited
        *(".#*", ".*.sw[op]", "*~"),
    ]
)


@dataclass(frozen=True)
class ProjectFile:
    """A file or a link of the project: its place in the snapshot, where its bytes are, and, of a link, its target."""

    name: str
    source: Path
    n_bytes: int
    executable: bool = False
    link: str | None = None


@dataclass
class Selection:
    """`ignored` look like secrets, `leaving` are links out of the project, `notes` are sentences for the user."""

    files: list[ProjectFile] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    leaving: list[str] = field(default_factory=list)


class _Rules:
    """What is left out, by its path relative to the project. `run_folders` are absolute."""

    def __init__(self, root: Path, run_folders: frozenset[Path]) -> None:
        self.root, self.run_folders = root, run_folders
        self.wishes = _ignore_file(root / IGNORE_FILE)
        self.leaves_out_folder = cache(self._leaves_out_folder)

    def _leaves_out_folder(self, name: str) -> bool:
        """Whether nothing below the folder is wanted, because of itself or of a parent."""
        path, parent = self.root / name, os.path.dirname(name)
        if parent and self.leaves_out_folder(parent):
            return True
        if path in self.run_folders or path.name == ".git" or path.is_symlink():
            return True
        if NEVER_CODE.match_file(name + "/") or _is_environment(path) or _is_sweep(path):
            return True
        wish = self.wishes.check_file(name + "/").include
        return name == DATA_FOLDER if wish is None else wish

    def leaves_out_file(self, name: str) -> bool:
        parent = os.path.dirname(name)
        if os.path.basename(name) == ".git" or (parent and self.leaves_out_folder(parent)):
            return True
        if NEVER_CODE.match_file(name):
            return True
        wish = self.wishes.check_file(name).include
        return name == DATA_FOLDER if wish is None else wish

    def leaves_out_link_to(self, target: Path) -> bool:
        """Runs and environments are often links to another disk."""
        return target in self.run_folders or _is_environment(target)

    def hides_secret(self, name: str) -> bool:
        return looks_secret(name) and self.wishes.check_file(name).include is not False


def _is_environment(path: Path) -> bool:
    return (path / "pyvenv.cfg").exists() or (path / "conda-meta").is_dir()


def _is_sweep(path: Path) -> bool:
    return (path / "plan.jsonl").exists() and (path / "sweep.yaml").exists()


def _ignore_file(path: Path) -> GitIgnoreSpec:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return GitIgnoreSpec.from_lines(file.read().splitlines())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return GitIgnoreSpec.from_lines([])
    except ValueError as error:  # pathspec's own error for a pattern that is none
        raise UsageError(f"{path}: {error}", "see `man gitignore` for the patterns that are allowed") from error


def select_files(root: Path, run_folders: frozenset[Path]) -> Selection:
    """The code of the project, sorted by name, and what was left out on the way. `root` and folders are resolved.

    Raises UsageError if it is too large, or if links lead out of it.
    """
    selection, rules = Selection(), _Rules(root, run_folders)
    for name in sorted(set(_listed(root, "", rules, selection.notes))):
        if rules.leaves_out_file(name):
            continue
        if rules.hides_secret(name):
            selection.ignored.append(name)
            continue
        with suppress(FileNotFoundError, NotADirectoryError):  # in git's index but deleted, or deleted just now
            _add(selection, rules, name)
    _drop_links_to_nothing(selection)
    _note_left_out_code(root, rules, selection.notes)
    _refuse_links_that_leave(root, selection)
    _refuse_what_is_too_large(root, selection)
    return selection


def _add(selection: Selection, rules: _Rules, name: str) -> None:
    path = rules.root / name
    info = os.lstat(path)
    if not _is_utf8(name):
        selection.notes.append(f"left out {shown(name)}: its name is not UTF-8")
    elif stat.S_ISREG(info.st_mode):
        selection.files.append(ProjectFile(name, path, info.st_size, bool(info.st_mode & 0o100)))
    elif stat.S_ISLNK(info.st_mode):
        _add_link(selection, rules, name)
    elif not stat.S_ISDIR(info.st_mode):
        selection.notes.append(f"left out {shown(name)}: a socket, pipe or device")


def _add_link(selection: Selection, rules: _Rules, name: str) -> None:
    path = rules.root / name
    target = Path(os.path.realpath(path))
    if rules.leaves_out_link_to(target):
        return
    if target != rules.root and rules.root not in target.parents:
        selection.leaving.append(f"{shown(name)} -> {shown(os.readlink(path))}")
        return
    link = os.path.relpath(target, path.parent)
    selection.files.append(ProjectFile(name, path, len(link), link=link))


def _drop_links_to_nothing(selection: Selection) -> None:
    """A link whose target is not in the snapshot would only fail later."""
    held = {"."}
    for file in selection.files:
        if file.link is None:
            held.update((file.name, *(parent.as_posix() for parent in PurePosixPath(file.name).parents)))
    kept = []
    for file in selection.files:
        if file.link is None or os.path.normpath(os.path.join(os.path.dirname(file.name), file.link)) in held:
            kept.append(file)
        else:
            selection.notes.append(f"left out the link {shown(file.name)}: its target is not in the snapshot")
    selection.files[:] = kept


def _note_left_out_code(root: Path, rules: _Rules, notes: list[str]) -> None:
    data = root / DATA_FOLDER
    if data.is_dir() and rules.leaves_out_folder(DATA_FOLDER) and any(data.glob("*.py")):
        notes.append(f"left out data/, which holds Python files: if jobs import them, write `!/data/` in {IGNORE_FILE}")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_links_that_leave(root: Path, selection: Selection) -> None:
    if not selection.leaving:
        return
    links = "\n".join(f"    {link}" for link in selection.leaving[:N_SHOWN])
    raise UsageError(
        f"{root}: {len(selection.leaving)} link(s) lead out of the project; a copy would not be whole:\n{links}",
        f"{IGNORE_HINT}; jobs can open data by an absolute path",
    )


def _refuse_what_is_too_large(root: Path, selection: Selection) -> None:
    n_bytes = sum(file.n_bytes for file in selection.files)
    if n_bytes <= MAX_BYTES and len(selection.files) <= MAX_FILES:
        return
    largest = sorted(selection.files, key=lambda file: -file.n_bytes)[:N_SHOWN]
    raise UsageError(
        f"{root}: the code is {n_bytes / 1e6:.0f} MB in {len(selection.files)} files; a snapshot may have "
        f"{MAX_BYTES / 1e6:.0f} MB and {MAX_FILES} files. The largest are\n"
        + "\n".join(f"    {file.n_bytes / 1e6:8.1f} MB  {shown(file.name)}" for file in largest),
        IGNORE_HINT,
    )


# -- listing ---------------------------------------------------------------------------------------------------------


def _listed(root: Path, prefix: str, rules: _Rules, notes: list[str]) -> Iterator[str]:
    """The names of all files below `prefix` ("" or "folder/") that .gitignore does not leave out."""
    names = _git_listing(root / prefix, notes)
    for name in (prefix + n for n in names) if names is not None else _walk(root, prefix, rules, []):
        # git lists a submodule, or a repository inside this one, as one folder
        if names is None or (root / name).is_symlink() or not (root / name).is_dir():
            yield name
        elif (root / name / ".git").exists() and not rules.leaves_out_folder(name.rstrip("/")):
            yield from _listed(root, name.rstrip("/") + "/", rules, notes)


def _git_listing(folder: Path, notes: list[str]) -> list[str] | None:
    """What git would commit, or None where it does not rule: no git, no repository, another owner's repository."""
    ignored = _git(folder, "check-ignore", "-q", ".")
    if ignored is None or ignored.returncode == 0:  # inside a folder that an outer repository ignores
        return None
    result = _git(folder, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    if result is None:
        return None
    remark = shown(result.stderr.decode(errors="replace").partition("\n")[0], 200)
    if result.returncode == 0:
        if result.stderr:
            notes.append(f"git, listing {folder}: {remark}")
        return [os.fsdecode(name) for name in result.stdout.split(b"\0") if name]
    if "not a git repository" not in remark:
        notes.append(f"git does not list {folder} ({remark}): .gitignore was read without it")
    return None


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes] | None:
    """git's answer, or None without git. A repository's own configuration must not start programs (fsmonitor)."""
    environment = {name: value for name, value in os.environ.items() if name not in GIT_POINTERS}
    environment |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-c", "core.fsmonitor=false", *arguments]
    options = {"cwd": folder, "env": environment, "stdin": subprocess.DEVNULL, "timeout": GIT_TIMEOUT_S}
    try:
        return subprocess.run(command, check=False, capture_output=True, **options)
    except (FileNotFoundError, PermissionError, subprocess.TimeoutExpired):
        return None


def _walk(root: Path, prefix: str, rules: _Rules, outer: list[tuple[str, GitIgnoreSpec]]) -> Iterator[str]:
    """As git would list it, without git: every .gitignore rules its own folder, a deeper one before an outer one."""
    specs = [(prefix, _ignore_file(root / prefix / ".gitignore")), *outer]
    with os.scandir(root / prefix) as entries:
        children = [(prefix + entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in children:
        if _is_git_ignored(name + "/" * is_folder, specs):
            continue
        if not is_folder:
            yield name
        elif not rules.leaves_out_folder(name):
            yield from _walk(root, name + "/", rules, specs)


def _is_git_ignored(name: str, specs: Iterable[tuple[str, GitIgnoreSpec]]) -> bool:
    answers = (spec.check_file(name[len(folder) :]).include for folder, spec in specs)
    return next((answer for answer in answers if answer is not None), False)
