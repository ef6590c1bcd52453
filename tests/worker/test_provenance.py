"""Provenance says where results come from, never raises, and never holds a secret."""

import json
import os
import subprocess
import sys
import time

import pytest

from dlcluster.secret_names import looks_secret
from dlcluster.worker import provenance
from dlcluster.worker.provenance import HIDDEN, collect, output_of, redact, redact_arguments


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def repository(root):
    git(root, "init", "-q", "-b", "main")
    (root / "train.py").write_text("lr = 0.1\n")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    return root


@pytest.fixture
def fake_program(tmp_path, monkeypatch):
    """A real little program, first on PATH."""

    def put(name, script):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"#!{sys.executable}\n{script}\n")
        (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return put


def git(folder, *arguments):
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_everything_is_there_and_is_json(repository):
    facts = collect(repository, ["dlcluster", "sweep", "lr.yaml"])
    assert set(facts) == {
        *("time", "command", "git", "python", "packages", "host", "gpus", "environment", "problems"),
    }
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["problems"] == []
    assert facts["time"].endswith("+00:00")
    assert facts["packages"]["pytest"] == pytest.__version__
    assert all(isinstance(version, str) and "://" not in version for version in facts["packages"].values())
    assert facts["host"]["cpus"] >= 1 and facts["host"]["memory_mb"] > 100 and facts["host"]["user"]
    assert facts["python"]["executable"] == sys.executable


def test_a_clean_commit(repository):
    found = collect(repository, [])["git"]
    assert found["commit"] == git(repository, "rev-parse", "HEAD")
    assert (found["branch"], found["dirty"], found["diff"], found["remote"]) == ("main", False, "", None)


def test_uncommitted_changes(repository):
    (repository / "train.py").write_text("lr = 0.2\n")
    (repository / "new.py").write_text("x")
    found = collect(repository, [])["git"]
    assert found["dirty"] and found["changed"] == ["train.py"] and found["untracked"] == ["new.py"]
    assert "-lr = 0.1\n+lr = 0.2\n" in found["diff"] and not found["diff_truncated"]


def test_staged_changes_count(repository):
    (repository / "train.py").write_text("lr = 0.3\n")
    git(repository, "add", ".")
    assert "+lr = 0.3" in collect(repository, [])["git"]["diff"]


def test_a_huge_diff_is_cut_off(repository):
    (repository / "train.py").write_text("0123456789\n" * 1_000_000)
    found = collect(repository, [])["git"]
    assert found["diff_truncated"] and len(found["diff"]) == provenance.MAX_DIFF_BYTES


def test_no_branch(repository):
    git(repository, "checkout", "-q", "--detach")
    found = collect(repository, [])["git"]
    assert found["branch"] is None and found["commit"]


def test_no_commit_yet(root):
    git(root, "init", "-q", "-b", "main")
    (root / "x.py").write_text("x")
    facts = collect(root, [])
    assert facts["problems"] == []
    assert (facts["git"]["commit"], facts["git"]["branch"], facts["git"]["dirty"]) == (None, "main", True)


def test_no_repository(root):
    facts = collect(root, [])
    assert facts["git"] is None and facts["problems"] == []


def test_no_folder(root):
    assert collect(root / "none", [])["git"] is None


def test_no_programs_at_all(repository, monkeypatch):
    monkeypatch.setenv("PATH", str(repository / "nothing here"))
    facts = collect(repository, [])
    assert (facts["git"], facts["gpus"], facts["problems"]) == (None, [], [])


def test_another_owners_repository(repository, monkeypatch, fake_program):
    fake_program("git", "import sys; sys.exit('fatal: detected dubious ownership')")
    assert collect(repository, [])["git"] is None


def test_a_name_that_is_not_utf8(repository):
    with open(os.fsencode(repository) + b"/\xff.py", "w") as file:
        file.write("x")
    found = collect(repository, [])["git"]
    assert json.dumps(found).encode() and len(found["untracked"]) == 1


def test_a_failing_part_is_named_and_the_rest_is_there(repository, monkeypatch):
    def fail():
        raise RuntimeError("no such https://me:hunter2@host")

    monkeypatch.setattr(provenance, "installed_packages", fail)
    facts = collect(repository, [])
    assert facts["packages"] is None and facts["git"]["commit"]
    assert "packages: RuntimeError" in facts["problems"][0] and "hunter2" not in facts["problems"][0]


# -- secrets ---------------------------------------------------------------------------------------------------------

SECRET = "hunter2hunter2hunter2hunter2"


def test_planted_secrets_are_nowhere(repository, monkeypatch):
    for name in (".env", "cert.pem", "id_rsa", "sub/.netrc", ".aws/credentials", "config.py"):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text("old\n")
    git(repository, "add", "-f", ".")
    git(repository, "commit", "-qm", "oh no")
    for name in (".env", "cert.pem", "id_rsa", "sub/.netrc", ".aws/credentials"):
        (repository / name).write_text(f"{SECRET}\n")
    (repository / "config.py").write_text(f'API_KEY = "{SECRET}"\nurl = "https://me:{SECRET}@host/x"\nlr = 0.5\n')
    git(repository, "remote", "add", "origin", f"https://user:{SECRET}@example.org/group/project.git")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("SLURM_JOB_SECRET", SECRET)
    monkeypatch.setenv("VIRTUAL_ENV", f"https://me:{SECRET}@host/env")
    argv = ["dlcluster", f"--token={SECRET}", "--password", SECRET, "--set", f"fixed.x_token={SECRET}"]
    facts = collect(repository, argv)
    assert SECRET not in json.dumps(facts)
    assert facts["git"]["remote"] == "https://***@example.org/group/project.git"
    assert facts["git"]["diff_left_out"] == [".aws/credentials", ".env", "cert.pem", "id_rsa", "sub/.netrc"]
    assert "lr = 0.5" in facts["git"]["diff"]
    assert set(facts["environment"]) <= set(provenance.ENVIRONMENT)


def test_a_project_below_the_top_of_its_repository(repository):
    folder = repository / "research"
    folder.mkdir()
    (folder / ".env").write_text("old")
    (folder / "a.py").write_text("old")
    git(repository, "add", "-f", ".")
    git(repository, "commit", "-qm", "x")
    (folder / ".env").write_text(SECRET)
    (folder / "a.py").write_text("new")
    (repository / "train.py").write_text("somebody else's change")
    found = collect(folder, [])["git"]
    assert found["changed"] == ["research/.env", "research/a.py"]
    assert "+new" in found["diff"] and SECRET not in found["diff"] and "else's" not in found["diff"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("--token=abc", "--token=***"),
        ("--set=x_token=abc", "--set=x_token=***"),
        ("hf_token=abc", "hf_token=***"),
        ("WANDB_API_KEY=a=b", "WANDB_API_KEY=***"),
        ("--db-password=abc", "--db-password=***"),
        ("https://me:abc@host/x?y", "https://***@host/x?y"),
        ("--index=https://abc@host", "--index=https://***@host"),
        ("X-Api-Key: abc", "X-Api-Key: ***"),
        ("Authorization: Bearer abc", "Authorization: ***"),
        ('{"api_key": "abcd"}', '{"api_key": "***"}'),
        ("ghp_0123456789abcdefghij", "***"),
    ],
)
def test_secret_arguments_are_hidden(given, kept):
    assert redact_arguments([given]) == [kept]


@pytest.mark.parametrize(
    "argument",
    [
        *(
            "--set",
            "max_tokens=512",
            "tokenizer=bert-base-uncased",
            "lr=1e-3",
            "--key-dim=64",
            "n_keys=8",
            "git@host:a/b",
        ),
        *("--out=runs/a@b", "https://host/a@b", "hf_hub_download_files", "keyboard=1", "--monkey=2"),
    ],
)
def test_ordinary_arguments_are_kept(argument):
    assert redact_arguments([argument]) == [argument]


def test_the_word_after_a_secret_option_is_hidden():
    assert redact_arguments(["--api-key", "abc", "--lr", "1"]) == ["--api-key", HIDDEN, "--lr", "1"]
    assert redact_arguments(["--token", "--lr", "1"]) == ["--token", "--lr", "1"]


def test_code_is_no_secret():
    code = 'tokenizer = "word-level"\nfor token in tokens:\n    basic functionality, bearer of news, key = values[0]\n'
    assert redact(code) == code


def test_a_private_key_in_a_diff_is_hidden_even_if_cut_off():
    assert "MIIE" not in redact("+-----BEGIN RSA PRIVATE KEY-----\n+MIIEabc\n")


def test_only_listed_variables_are_recorded(monkeypatch):
    monkeypatch.setattr(provenance, "ENVIRONMENT", (*provenance.ENVIRONMENT, "MY_TOKEN"))
    monkeypatch.setenv("MY_TOKEN", "abc")
    monkeypatch.setenv("MY_OTHER", "abc")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    found = provenance.allowed_environment()
    assert found["OMP_NUM_THREADS"] == "4" and "abc" not in found.values()


def test_no_listed_variable_has_the_name_of_a_secret():
    assert [name for name in provenance.ENVIRONMENT if provenance.SECRET_NAME.search(name)] == []


def test_secret_files_are_known_by_their_names():
    names = ("id_map.py", "id_work", ".env.x", "a/.ssh/config", "train.py", "ID_RSA.bak")
    assert [looks_secret(name) for name in names] == [False, True, True, True, False, True]


# -- programs --------------------------------------------------------------------------------------------------------


def test_gpus_as_the_driver_lists_them(root, fake_program):
    fake_program("nvidia-smi", "print('0, NVIDIA H100 80GB HBM3, 81559 MiB, 550.54.15\\n1, NVIDIA H100, 1 MiB, 550')")
    assert [gpu["name"] for gpu in collect(root, [])["gpus"]] == ["NVIDIA H100 80GB HBM3", "NVIDIA H100"]


def test_a_driver_that_fails_shows_no_gpus(fake_program):
    fake_program("nvidia-smi", "print('NVIDIA-SMI has failed'); raise SystemExit(9)")
    assert provenance.gpus() == []


@pytest.mark.parametrize("script", ["import time; time.sleep(60)", "import os, time; os.close(1); time.sleep(60)"])
def test_a_program_that_hangs_is_ended(script):
    started = time.monotonic()
    assert output_of([sys.executable, "-c", script], timeout_s=0.5, limit=100) is None
    assert time.monotonic() - started < 20


def test_a_program_that_never_stops_printing_is_cut_off():
    script = "while True: print('x' * 1000)"
    assert len(output_of([sys.executable, "-c", script], timeout_s=30, limit=5_000)) == 5_000


def test_a_repositorys_configuration_starts_no_program(repository, tmp_path):
    hook = repository / "hook.sh"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/canary\n")
    hook.chmod(0o755)
    (repository / ".gitattributes").write_text("*.py diff=evil\n")
    for key in ("core.fsmonitor", "diff.external", "diff.evil.command", "diff.evil.textconv", "core.pager"):
        git(repository, "config", key, str(hook))
    (repository / "train.py").write_text("lr = 0.2\n")
    assert "+lr = 0.2" in collect(repository, [])["git"]["diff"]
    assert not (tmp_path / "canary").exists()


def test_the_standard_library_is_enough():
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    script = "import sys, dlcluster.worker.provenance; print([m for m in sys.modules if 'site-packages' in "
    script += "(getattr(sys.modules[m], '__file__', '') or '')])"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {checkout!r}); {script}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    imported = [name for name in eval(done.stdout) if not name.startswith(("_distutils", "__editable__", "sitecustom"))]
    assert imported == []
