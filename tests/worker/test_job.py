"""Finding the training function, and saying what it takes."""

from __future__ import annotations

import functools
import sys

import pytest

from dlcluster.worker.job import JobError, describe, load_job, user_place


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(root, name, text="def train(run, *, lr=0.1): return 'this one'\n"):
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.mark.parametrize("reference", ["pkg_of_test.digits", "pkg_of_test.digits:train", "pkg_of_test/digits.py"])
def test_a_job_is_found_by_module_and_by_file(root, reference):
    write(root, "pkg_of_test/digits.py")
    assert load_job(reference, root)(None) == "this one"


def test_the_project_comes_first_on_the_path(root):
    write(root, "decimal_of_test.py")
    write(root, "elsewhere/decimal_of_test.py", "def train(run): return 'the other'\n")
    sys.path.insert(0, str(root / "elsewhere"))
    assert load_job("decimal_of_test", root)(None) == "this one"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("nowhere_to_be", "no module named 'nowhere_to_be'"),
        ("pkg_of_test.nowhere", r"no module named 'pkg_of_test\.nowhere'"),
        ("pkg_of_test/nowhere.py", r"no such file: nowhere\.py"),
        ("pkg_of_test.digits:tran", "has no function 'tran'; it has: train"),
        ("pkg_of_test.digits:LR", "LR is not a function but float"),
        ("pkg_of_test.empty", "no function at all"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(root, reference, expected):
    write(root, "pkg_of_test/digits.py", "LR = 0.1\ndef train(run): ...\ndef _private(): ...\n")
    write(root, "pkg_of_test/empty.py", "")
    with pytest.raises(JobError, match=expected):
        load_job(reference, root)


def test_an_import_error_of_the_job_s_own_code_is_its_own(root):
    write(root, "imports_of_test.py", "import no_such_library_at_all\n")
    with pytest.raises(ModuleNotFoundError) as raised:
        load_job("imports_of_test", root)
    assert user_place(raised.value, root) == f"{root}/imports_of_test.py:1: "


def test_the_place_is_the_deepest_line_of_the_user_s_own_code(root):
    write(root, "deep_of_test.py", "import json\n\ndef read():\n    json.loads('{')\n\nread()\n")
    with pytest.raises(ValueError) as raised:
        load_job("deep_of_test", root)
    assert user_place(raised.value, root) == f"{root}/deep_of_test.py:4: "
    assert user_place(raised.value, root / "elsewhere") == ""


def test_parameters_are_described_without_the_run():
    def train(run, lr, *, epochs=3, **more): ...

    assert describe(train) == {
        "parameters": {"lr": {"required": True}, "epochs": {"required": False}},
        "takes_any": True,
    }


def test_anything_that_can_be_called_can_be_a_job():
    class Job:
        def __call__(self, run, *, lr): ...

    def train(size, run, *, lr=1): ...

    assert describe(Job()) == {"parameters": {"lr": {"required": True}}, "takes_any": False}
    assert describe(functools.partial(train, 3))["parameters"] == {"lr": {"required": False}}
    assert describe(lambda *arguments: None) == {"parameters": {}, "takes_any": False}


@pytest.mark.parametrize("function", [lambda: None, lambda *, run: None, lambda **all_of_it: None])
def test_a_function_that_cannot_take_the_run_is_refused(function):
    with pytest.raises(JobError, match="first parameter must take the run"):
        describe(function)


def test_a_function_whose_parameters_cannot_be_read_is_refused():
    with pytest.raises(JobError, match="cannot be read"):
        describe(max)
