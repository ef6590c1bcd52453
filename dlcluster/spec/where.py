"""Constraints on configs: a small expression language, read with `ast` and turned into closures. Nothing is evaluated.

Allowed: names of parameters, numbers, text, true/false (True/False), + - * / // % **, comparisons (also chained),
`and`, `or`, `not`, `in` and `not in` with a literal list, and the functions of `FUNCTIONS`. A constraint that names a
parameter which does not exist in a config (its `when:` is false) says nothing about that config: it holds.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dlcluster.errors import shown
from dlcluster.spec.names import did_you_mean

MAX_LENGTH = 1000
MAX_BITS = 1024

Config = Mapping[str, Any]
Closure = Callable[[Config], Any]


class WhereError(ValueError):
    """(message, hint): the expression is not allowed, or cannot be computed for a config."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


FUNCTIONS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "abs": (abs, 1, 1),
    "min": (min, 1, 20),
    "max": (max, 1, 20),
    "log": (math.log, 1, 2),
    "log2": (math.log2, 1, 1),
    "log10": (math.log10, 1, 1),
    "sqrt": (math.sqrt, 1, 1),
    "exp": (math.exp, 1, 1),
    "floor": (math.floor, 1, 1),
    "ceil": (math.ceil, 1, 1),
    "round": (round, 1, 1),
}


def _power(base: Any, exponent: Any) -> Any:
    """Bounded: `9**9**9` would fill the memory."""
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
        if base.bit_length() * exponent > MAX_BITS:
            raise OverflowError("the power is too large")
        return base**exponent
    result = float(base) ** float(exponent)
    if isinstance(result, complex):
        raise ValueError("a power of a negative number")
    return result


_ARITHMETIC: dict[type[ast.AST], tuple[str, Callable[..., Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
    ast.Pow: ("**", _power),
}

_ORDER: dict[type[ast.AST], tuple[str, Callable[[Any, Any], bool]]] = {
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
}

_EQUALITY: dict[type[ast.AST], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda value, options: value in options,
    ast.NotIn: lambda value, options: value not in options,
}


@dataclass(frozen=True)
class Constraint:
    """One line of `where:`; `names` are the parameters in it."""

    text: str
    names: frozenset[str]
    _holds: Closure

    def holds(self, config: Config) -> bool:
        """Whether the config is allowed; WhereError when the expression cannot be computed for it."""
        if not self.names <= config.keys():
            return True
        try:
            result = self._holds(config)
        except (ArithmeticError, ValueError, TypeError, RecursionError) as error:
            reason = error.message if isinstance(error, WhereError) else str(error)
            raise WhereError(f"{reason}, for the config {self._values(config)}") from None
        if not isinstance(result, bool):
            raise WhereError(f"expected true or false, got {shown(result)}, for the config {self._values(config)}")
        return result

    def _values(self, config: Config) -> str:
        return ", ".join(f"{name}={shown(config[name], 40)}" for name in sorted(self.names)) or "of any values"


def compile_constraint(text: str, parameters: Iterable[str]) -> Constraint:
    """The constraint as closures; WhereError names the first thing in it that is not allowed, with its position."""
    compiler = _Compiler(text, frozenset(parameters))
    try:
        holds = compiler.compile(_parse(text))
    except RecursionError:
        raise WhereError("the expression is nested too deeply") from None
    return Constraint(text, frozenset(compiler.names), holds)


def _parse(text: str) -> ast.expr:
    if len(text) > MAX_LENGTH:
        raise WhereError(f"expected at most {MAX_LENGTH} characters, got {len(text)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own remarks about odd but valid expressions
            return ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        at = f" at character {error.offset}" if error.offset else ""
        raise WhereError(f"no valid expression ({error.msg}){at}, got {shown(text)}", _syntax_hint(text)) from None
    except (ValueError, RecursionError, MemoryError):  # a NUL, or hundreds of brackets
        raise WhereError(f"no valid expression, got {shown(text)}") from None


def _syntax_hint(text: str) -> str:
    return "write and, or, not" if "&&" in text or "||" in text or "!" in text.replace("!=", "") else ""


class _Compiler:
    """Turns each allowed node into a closure, and notes the parameters that occur."""

    def __init__(self, text: str, parameters: frozenset[str]) -> None:
        self.text, self.parameters = text, parameters
        self.names: set[str] = set()

    def compile(self, node: ast.AST) -> Closure:
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise self.refused(node, f"{_NODE_WORDS.get(type(node).__name__, type(node).__name__)} cannot be used here")
        return method(node)

    def refused(self, node: ast.AST, message: str, hint: str = "") -> WhereError:
        column = getattr(node, "col_offset", 0)
        return WhereError(f"{message}, at character {column + 1} of {shown(self.text)}", hint)

    def _constant(self, node: ast.Constant) -> Closure:
        value = node.value
        if not isinstance(value, bool | int | float | str):
            raise self.refused(node, f"expected a number, text, true or false, got {shown(value)}")
        if not isinstance(value, str) and not abs(value) < 2**63:
            raise self.refused(node, "the number is out of range")
        return lambda config: value

    def _name(self, node: ast.Name) -> Closure:
        name = node.id
        if name in ("true", "false") and name not in self.parameters:
            return lambda config: name == "true"
        if name not in self.parameters:
            words = [*self.parameters, *FUNCTIONS]
            hint = did_you_mean(name, words) or f"parameters: {', '.join(sorted(self.parameters)) or 'none'}"
            raise self.refused(node, f"'{name}' is no parameter", hint)
        self.names.add(name)
        return operator.itemgetter(name)

    def _attribute(self, node: ast.Attribute) -> Closure:
        dotted = [name for name in self.parameters if not name.isidentifier() and name in self.text]
        hint = f"'{dotted[0]}': a name with '.' or '-' cannot be used in where:" if dotted else ""
        raise self.refused(node, "'.' (attribute access) cannot be used here", hint)

    def _unaryop(self, node: ast.UnaryOp) -> Closure:
        operand = self.compile(node.operand)
        if isinstance(node.op, ast.Not):
            return lambda config: not _truth(operand(config), "not")
        if isinstance(node.op, ast.Invert):
            raise self.refused(node, "'~' cannot be used here", "write not")
        sign = -1 if isinstance(node.op, ast.USub) else 1
        return lambda config: sign * _number(operand(config), "-" if sign < 0 else "+")

    def _binop(self, node: ast.BinOp) -> Closure:
        if type(node.op) not in _ARITHMETIC:
            raise self.refused(node, f"{type(node.op).__name__} cannot be used here", "write and, or, not")
        symbol, apply = _ARITHMETIC[type(node.op)]
        left, right = self.compile(node.left), self.compile(node.right)
        return lambda config: apply(_number(left(config), symbol), _number(right(config), symbol))

    def _boolop(self, node: ast.BoolOp) -> Closure:
        operands = [self.compile(value) for value in node.values]
        if isinstance(node.op, ast.And):
            return lambda config: all(_truth(operand(config), "and") for operand in operands)
        return lambda config: any(_truth(operand(config), "or") for operand in operands)

    def _compare(self, node: ast.Compare) -> Closure:
        terms = [self.compile(node.left)]
        tests = []
        for op, term in zip(node.ops, node.comparators, strict=True):
            is_membership = isinstance(op, ast.In | ast.NotIn)
            terms.append(self._literal_list(term) if is_membership else self.compile(term))
            tests.append(self._comparison(node, op))

        def holds(config: Config) -> bool:
            left = terms[0](config)
            for test, term in zip(tests, terms[1:], strict=True):
                right = term(config)
                if not test(left, right):
                    return False
                left = right
            return True

        return holds

    def _comparison(self, node: ast.Compare, op: ast.cmpop) -> Callable[[Any, Any], bool]:
        if type(op) in _EQUALITY:
            return _EQUALITY[type(op)]
        if type(op) not in _ORDER:
            raise self.refused(node, "'is' cannot be used here", "write == or !=")
        symbol, apply = _ORDER[type(op)]
        return lambda left, right: apply(*_alike(left, right, symbol))

    def _literal_list(self, node: ast.expr) -> Closure:
        if not isinstance(node, ast.List | ast.Tuple | ast.Set):
            raise self.refused(node, "expected a list after in", "for example: optimizer in ['sgd', 'adam']")
        before = set(self.names)
        values = [self.compile(item) for item in node.elts]
        if self.names != before or not all(isinstance(item, ast.Constant | ast.UnaryOp) for item in node.elts):
            raise self.refused(node, "expected a list of numbers and texts after in")
        options = [value({}) for value in values]
        return lambda config: options

    def _call(self, node: ast.Call) -> Closure:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in FUNCTIONS or node.keywords:
            hint = (did_you_mean(name, FUNCTIONS) if name else "") or f"functions: {', '.join(FUNCTIONS)}"
            raise self.refused(node, "the call cannot be used here", hint)
        function, fewest, most = FUNCTIONS[name]
        if not fewest <= len(node.args) <= most:
            raise self.refused(node, f"{name}() takes {fewest} to {most} values, got {len(node.args)}")
        arguments = [self.compile(argument) for argument in node.args]
        if name in ("min", "max") and len(arguments) == 1:
            raise self.refused(node, f"{name}() takes at least two values")
        return lambda config: function(*(_number(argument(config), name) for argument in arguments))


_NODE_WORDS = {"Subscript": "'[ ]'", "Lambda": "lambda", "NamedExpr": "':='", "IfExp": "if ... else", "List": "a list"}


def _number(value: Any, symbol: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WhereError(f"'{symbol}' expects numbers, got {shown(value)}")
    return value


def _truth(value: Any, word: str) -> bool:
    if not isinstance(value, bool):
        raise WhereError(f"'{word}' expects true or false, got {shown(value)}")
    return value


def _alike(left: Any, right: Any, symbol: str) -> tuple[Any, Any]:
    """Both numbers or both text: `'64' < 128` is a mistake, not an order."""
    if isinstance(left, str) and isinstance(right, str):
        return left, right
    return _number(left, symbol), _number(right, symbol)
