"""A table as text: terminal, Markdown, CSV, LaTeX, JSON. And whole frames as files."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pandas as pd

from dlcluster.errors import UsageError
from dlcluster.results.aggregate import Results
from dlcluster.results.intervals import ALPHA
from dlcluster.results.series import Objective
from dlcluster.trial import canonical_json

MAX_TERMINAL_ROWS = 200
LONG_VALUE = 24  # characters: a longer value may be broken over lines
MAX_DECIMALS = 12
SPREADSHEET_COMMANDS = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True)
class Table:
    """`rows` in full precision with stable column names; `params` are the columns of parameters among them.

    Columns: rank, config, role, param.NAME..., mean, low, high, method, se, n_seeds, n_planned, seed_sd, n_items,
    epochs and seconds (means over the trials that count), state, marks, snapshot. `warnings` are those of the table;
    damage and the like are in `Results.warnings`.
    """

    name: str
    objective: Objective
    rows: pd.DataFrame
    params: tuple[str, ...]
    caption: str
    warnings: tuple[str, ...] = ()
    alpha: float = ALPHA

    def head(self, n: int) -> Table:
        """The first rows only, with the caption of the whole."""
        return replace(self, rows=self.rows.head(n))


def render(table: Table, format: str = "terminal", *, width: int = 100, color: bool = False) -> str:
    """The table as text that ends with a newline. Raises UsageError for a format that does not exist."""
    if format == "terminal":
        return _terminal(table, width, color)
    writers: dict[str, Callable[[Table], str]] = {
        "markdown": _markdown,
        "csv": lambda table: csv_text(table.rows),
        "latex": _latex,
        "json": _json,
    }
    if format not in writers:
        raise UsageError(f"no such format: {format!r}", f"one of: terminal, {', '.join(writers)}")
    return writers[format](table)


# -- numbers as they are printed ----------------------------------------------------------------------------------


def decimals_for(standard_error: float) -> int | None:
    """Decimals that show two significant digits of the standard error; None if there is none to go by."""
    if not math.isfinite(standard_error) or standard_error <= 0:
        return None
    exponent = int(f"{standard_error:.1e}".partition("e")[2])
    return min(max(0, 1 - exponent), MAX_DECIMALS)


def number(value: Any, digits: int = 4) -> str:
    """At most `digits` significant digits; integers and text as they are; nothing for a missing value."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool) or str(value) in ("True", "False"):
        return str(value).lower()
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, (list, dict)):
        return one_line(canonical_json(value))
    if float(value).is_integer() and abs(value) < 10**9:
        return str(int(value))
    return f"{float(value):.{digits}g}"


def one_line(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def score_cell(mean: float, low: float, high: float, se: float) -> str:
    """`mean [low, high]` with the digits that the standard error supports; never a bare +-."""
    if not math.isfinite(mean):
        return ""
    decimals = decimals_for(se)
    if decimals is None:
        return number(mean) if not math.isfinite(low) else f"{number(mean)} [{number(low)}, {number(high)}]"
    return f"{mean:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


def cells(table: Table) -> tuple[list[str], list[list[str]]]:
    """Headers and rows as they are printed: columns that say nothing are left out."""
    rows, level = table.rows, f"{100 * (1 - table.alpha):.4g}%"
    columns: dict[str, list[str]] = {
        "#": [number(value) for value in rows["rank"]],
        "config": short_ids(list(rows["config"])),
        "role": list(rows["role"]) if rows["role"].nunique() > 1 else [],
        **{name.removeprefix("param."): [number(value) for value in rows[name]] for name in table.params},
        f"{table.objective.metric} [{level}]": [
            score_cell(*values) + mark
            for *values, mark in zip(rows["mean"], rows["low"], rows["high"], rows["se"], rows["marks"], strict=True)
        ],
        "seeds": [f"{done}/{planned}" for done, planned in zip(rows["n_seeds"], rows["n_planned"], strict=True)],
        "seed sd": [number(value, 2) for value in rows["seed_sd"]],
        "epochs": [number(value, 3) for value in rows["epochs"]],
        "seconds": [number(value, 3) for value in rows["seconds"]],
        "state": list(rows["state"]),
    }
    shown = {name: values for name, values in columns.items() if any(values)}
    return [one_line(name) for name in shown], [list(row) for row in zip(*shown.values(), strict=True)]


def short_ids(ids: list[str]) -> list[str]:
    """The first digits of the ids, as many as tell them apart (at least 6)."""
    n = 6
    while n < max(map(len, ids), default=0) and len({text[:n] for text in ids}) < len(set(ids)):
        n += 1
    return [text[:n] for text in ids]


def folded(header: str, values: list[str]) -> str:
    """A header that is wider than its column, broken after an underscore: `weight_` above `decay`."""
    width = max(map(len, values), default=0)
    return header if len(header) <= max(width, 8) or "[" in header else header.replace("_", "_\n").replace(" ", "\n")


# -- formats ------------------------------------------------------------------------------------------------------


def _notes(table: Table) -> list[str]:
    return [one_line(table.caption), *(f"warning: {one_line(warning)}" for warning in table.warnings)]


def what_is_not_shown(table: Table) -> str:
    """How many rows a terminal leaves out, and in which states: no failure is hidden behind a number of rows."""
    states = table.rows["state"].iloc[MAX_TERMINAL_ROWS:].value_counts()
    words = ", ".join(f"{n} {one_line(state)}" for state, n in states.items())
    return f"... and {len(table.rows) - MAX_TERMINAL_ROWS} more rows ({words}); --format csv has them all"


def _terminal(table: Table, width: int, color: bool) -> str:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    headers, rows = cells(table.head(MAX_TERMINAL_ROWS))
    widest = [max(len(text) for text in column) for column in zip(headers, *rows, strict=True)]
    gap = 2 if sum(widest) + 2 * len(widest) <= width else 1
    style = "bold" if color else ""
    grid = RichTable(box=None, pad_edge=False, header_style=style, show_edge=False, padding=(0, gap, 0, 0))
    for i, header in enumerate(headers):
        values = [row[i] for row in rows]
        is_text = header in ("config", "role", "state")
        may_fold = "[" not in header and (header == "state" or max(map(len, values), default=0) > LONG_VALUE)
        justify = "left" if is_text else "right"
        grid.add_column(Text(folded(header, values)), justify=justify, overflow="fold", no_wrap=not may_fold)
    for row in rows:
        grid.add_row(*map(Text, row))
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        emoji=False,
        markup=False,
        legacy_windows=False,
    )
    console.print(grid)
    if len(table.rows) > MAX_TERMINAL_ROWS:
        console.print(Text(what_is_not_shown(table)))
    console.print()
    for note in _notes(table):
        console.print(Text(note))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _markdown(table: Table) -> str:
    headers, rows = cells(table)

    def line(values: Sequence[str]) -> str:
        return "| " + " | ".join(_escaped(value, MARKDOWN) for value in values) + " |"

    rule = "|" + "|".join("---" if header in ("config", "role", "state") else "--:" for header in headers) + "|"
    notes = [_escaped(note, MARKDOWN) for note in _notes(table)]
    return "\n".join([line(headers), rule, *map(line, rows), "", *notes]) + "\n"


MARKDOWN = {"\\": "\\\\", "|": "\\|", "<": "&lt;", ">": "&gt;", "*": "\\*", "_": "\\_", "`": "\\`"}
LATEX = {
    **{c: "\\" + c for c in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip


def _escaped(text: str, table: dict[str, str]) -> str:
    return "".join(table.get(c, c) for c in one_line(text))


def _latex(table: Table) -> str:
    headers, rows = cells(table)
    columns = "".join("l" if header in ("config", "role", "state") else "r" for header in headers)

    def line(values: Sequence[str]) -> str:
        return " & ".join(_latex_cell(value) for value in values) + r" \\"

    return "\n".join([
        r"\begin{table}", r"\centering", rf"\caption{{{_escaped(table.caption, LATEX)}}}",
        rf"\begin{{tabular}}{{{columns}}}", r"\toprule", line(headers), r"\midrule", *map(line, rows), r"\bottomrule",
        r"\end{tabular}", r"\end{table}",
        *(f"% warning: {one_line(warning)}" for warning in table.warnings),
    ]) + "\n"  # fmt: skip


def _latex_cell(text: str) -> str:
    """Escaped; a leading minus of a number becomes a real one, and `[` never looks like an optional argument."""
    is_number = text[:1] == "-" and text[1:2].isdigit()
    text = _escaped(text, LATEX)
    return (
        f"${text[: len(text.split()[0])]}${text[len(text.split()[0]) :]}"
        if is_number
        else "{}" * (text[:1] == "[") + text
    )


def _json(table: Table) -> str:
    value = {
        "sweep": table.name,
        "objective": {"metric": table.objective.metric, "goal": table.objective.goal, "at": table.objective.at},
        "alpha": table.alpha,
        "caption": table.caption,
        "warnings": list(table.warnings),
        "rows": [{key: _strict(cell) for key, cell in row.items()} for row in table.rows.to_dict("records")],
    }
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY).decode() + "\n"


def _strict(cell: Any) -> Any:
    """What orjson can write: null for pandas' NA as for NaN, and text for integers of more than 64 bits."""
    if isinstance(cell, list):
        return list(map(_strict, cell))
    if isinstance(cell, dict):
        return {key: _strict(value) for key, value in cell.items()}
    is_too_long = type(cell) is int and cell.bit_length() > 63
    return None if cell is pd.NA else str(cell) if is_too_long else cell


# -- files --------------------------------------------------------------------------------------------------------


def csv_text(frame: pd.DataFrame) -> str:
    """Full precision; text that a spreadsheet would run as a formula gets an apostrophe in front."""
    return frame.assign(**{name: _safe_text(frame[name]) for name in frame if _has_text(frame[name])}).to_csv(
        index=False, lineterminator="\n"
    )


def _has_text(column: pd.Series) -> bool:
    return not pd.api.types.is_numeric_dtype(column)


def _safe_text(column: pd.Series) -> list[Any]:
    return [f"'{cell}" if isinstance(cell, str) and cell.startswith(SPREADSHEET_COMMANDS) else cell for cell in column]


def export_bytes(results: Results, what: str, format: str = "csv") -> bytes:
    """The trials or the metrics as CSV or Parquet, as the bytes of a file. Raises UsageError."""
    if what not in ("trials", "metrics") or format not in ("csv", "parquet"):
        raise UsageError(f"cannot export {what!r} as {format!r}", "trials or metrics, as csv or parquet")
    frame = results.trials if what == "trials" else results.metrics
    if format == "csv":
        return csv_text(frame).encode()
    buffer = io.BytesIO()
    plain = frame.assign(**{name: _one_kind(frame[name]) for name in frame if frame[name].dtype == object})
    plain.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _one_kind(column: pd.Series) -> pd.Series:
    """Parquet has one type a column: mixed ones become numbers if all are, else JSON text."""
    kinds = {type(value) for value in column if value is not None}
    if kinds <= {int, float}:
        return column.astype("float64")
    if kinds <= {str} or kinds == {bool}:
        return column
    return column.map(lambda value: None if value is None else canonical_json(value))
