from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcluster.spec.where import FUNCTIONS, WhereError, compile_constraint

CONFIG = {"lr": 0.1, "hidden": 64, "epochs": 15, "opt": "sgd", "bn": True}


def holds(text: str, config=None, names=None) -> bool:
    return compile_constraint(text, names or CONFIG).holds(CONFIG if config is None else config)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hidden * epochs <= 2048", True),
        ("hidden * epochs <= 512", False),
        ("0.01 < lr < 1", True),
        ("0.1 < lr < 1", False),
        ("1 < 3 > 2 == 2", True),
        ("opt == 'sgd' and lr < 1", True),
        ("opt == 'adam' or hidden == 64", True),
        ("not bn", False),
        ("bn", True),
        ("bn == true and not false", True),
        ("bn == True", True),
        ("opt in ['sgd', 'adam']", True),
        ("opt not in ('sgd', 'adam')", False),
        ("hidden in {32, -64}", False),
        ("log10(lr) == -1", True),
        ("log(8, 2) > 2.9", True),
        ("min(hidden, epochs, 3) == 3", True),
        ("abs(-lr) == lr", True),
        ("hidden % 32 == 0", True),
        ("hidden // 10 == 6 and hidden / 10 > 6", True),
        ("2 ** 10 == 1024 and lr ** 2 < 0.1", True),
        ("sqrt(hidden) == 8", True),
        ("-hidden < +hidden - 1", True),
        ("opt == 'sgd' or 1 / 0 > 1", True),
        ("opt < 'z'", True),
        (" ( lr < 1 ) ", True),
        ("floor(lr) == 0 and ceil(lr) == 1 and round(lr) == 0", True),
    ],
)
def test_constraints_say_what_python_would(text, expected):
    assert holds(text) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('touch x')", "call cannot be used here, at character 1"),
        ("lr.__class__", r"attribute access\) cannot be used here, at character 1"),
        ("lr < 1 and (lambda: 1)", "lambda cannot be used here, at character 13"),
        ("[x for x in opt]", "ListComp cannot be used here"),
        ("opt[0] == 's'", r"'\[ \]' cannot be used here"),
        ("(a := 3) > 1", "':=' cannot be used here"),
        ("1 if bn else 2", "if ... else cannot be used here"),
        ("f'{lr}' == ''", "JoinedStr cannot be used here"),
        ("lr & 1", "BitAnd cannot be used here"),
        ("~hidden > 1", "'~' cannot be used here"),
        ("hidden << 100 > 1", "LShift cannot be used"),
        ("lr is 1", "'is' cannot be used"),
        ("opt in 'sgd'", "expected a list after in"),
        ("opt in [opt]", "expected a list of numbers and texts"),
        ("eval('1') == 1", "call cannot be used here"),
        ("max(*[1, 2]) > 1", "Starred cannot be used"),
        ("max(1, key=lr) > 1", "call cannot be used here"),
        ("max(hidden) > 1", "takes at least two"),
        ("log() > 1", "takes 1 to 2 values, got 0"),
        ("hiden < 3", r"'hiden' is no parameter, at character 1 of 'hiden < 3'"),
        ("lr < 10000000000000000000000", "out of range, at character 6"),
        ("lr < 1e999", "out of range"),
        ("lr < 1j", "expected a number, text"),
        ("lr == None", "expected a number, text"),
        ("lr == ...", "expected a number, text"),
        ("lr == b'x'", "expected a number, text"),
        ("lr < * 3", r"no valid expression \(invalid syntax\) at character"),
        ("lr < 1 && bn", "no valid expression"),
        ("lr = 1", "no valid expression"),
        ("import os", "no valid expression"),
        ("", "no valid expression"),
        ("lr < 1\nimport os", "no valid expression"),
        ("lr\0 < 1", "no valid expression"),
        ("(" * 500 + "lr" + ")" * 500 + " > 1", "expected at most 1000 characters"),
        ("(" * 450 + "lr" + ")" * 450 + " > 1", "no valid expression|too deep"),
        ("-" * 900 + "lr > 1", "no valid expression|too deep"),
        ("1" * 2000, "at most 1000 characters"),
        ("'\\d' == opt and zzz", "'zzz' is no parameter"),
    ],
)
def test_anything_else_is_refused_with_its_position(text, message):
    with pytest.raises(WhereError, match=message):
        compile_constraint(text, CONFIG)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("9**9**9 > 1", "the power is too large"),
        ("lr ** -9999 > 1", "for the config lr=0.1"),
        ("(-8) ** 0.5 > 1", "a power of a negative number"),
        ("opt * 1000000000 == 'x'", r"'\*' expects numbers, got 'sgd', for the config opt='sgd'"),
        ("opt + 1 > 2", r"'\+' expects numbers, got 'sgd'"),
        ("opt < 3", "'<' expects numbers, got 'sgd'"),
        ("bn < 3", "'<' expects numbers, got True"),
        ("lr and bn", "'and' expects true or false, got 0.1"),
        ("not lr", "'not' expects true or false"),
        ("lr + 1", "expected true or false, got 1.1, for the config lr=0.1"),
        ("1 / (hidden - 64) > 1", "division by zero, for the config hidden=64"),
        ("log(0) > 1", "math domain error|expected a positive input"),
        ("exp(hidden * 1000) > 1", "range error"),
        ("sqrt('x') > 1", "'sqrt' expects numbers, got 'x'"),
        ("floor((9e18 ** 16) * (9e18 ** 16)) > 1", "cannot convert float infinity"),
    ],
)
def test_what_cannot_be_computed_names_the_config(text, message):
    with pytest.raises(WhereError, match=message):
        holds(text)


def test_a_constraint_on_an_absent_parameter_holds():
    config = {name: value for name, value in CONFIG.items() if name != "lr"}
    assert holds("lr > 100", config)
    assert not holds("hidden > 100", config)


def test_a_parameter_with_a_dot_is_named_in_the_hint():
    with pytest.raises(WhereError) as caught:
        compile_constraint("model.lr < 1", ["model.lr"])
    assert "model.lr" in caught.value.hint


WORDS = st.sampled_from(
    ["lr", "opt", "bn", "9", "**", "*", "-", "(", ")", "[", "]", "'a'", ".", "__class__", "in", "not", "and", "or",
     "<", "==",
     "lambda", ":", "exec", "open", "('x')", "if", "else", ",", "{", "}", "max", "log", " ", "is", "0", "//", "%", "@"]
)  # fmt: skip


@given(text=st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=40))
@settings(deadline=None, max_examples=500)
def test_no_expression_does_anything_but_answer_or_be_refused(text):
    try:
        constraint = compile_constraint(text, CONFIG)
        assert constraint.holds(CONFIG) in (True, False)
    except WhereError as error:
        assert error.message


def test_only_the_listed_functions_exist():
    for name in dir(__builtins__) if not isinstance(__builtins__, dict) else __builtins__:
        if name not in FUNCTIONS:
            with pytest.raises(WhereError):
                compile_constraint(f"{name}(1) == 1", CONFIG)
