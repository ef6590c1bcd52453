"""YAML or JSON text -> plain values with the place of every node. The only file that imports yaml.

The events of the parser are read one by one, so that nothing is built from a file that is too large, too deep, or that
uses what a spec does not need: aliases, anchors, merge keys, tags other than the core ones, a second document.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml import events as ev
from yaml.reader import Reader

from dlcluster.errors import Problem, SpecError, shown
from dlcluster.spec.document import E_FILE, E_SYNTAX, E_VALUE, Document, KeyPath, Place, TreeBuilder
from dlcluster.spec.scalars import Unclear, resolve_plain

MAX_BYTES = 1_000_000
MAX_LINES = 50_000

_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_TAG = "tag:yaml.org,2002:"
_CORE_TAGS = {"str": str, "int": int, "float": float, "bool": bool, "null": type(None), "seq": list, "map": dict}


def load_document(path: Path) -> Document:
    """Read a spec; SpecError when it cannot be read or parsed, duplicate keys are noted in `problems`."""
    document = Document(path, _decoded(path, _read(path)))
    _refuse_odd_text(document)
    if path.suffix.lower() == ".json":
        _build_json(document)
    else:
        _build_yaml(document)
    return document


def parse_value(text: str, file: str) -> Any:
    """The value of a YAML scalar or flow list, as it is given to `--set`; `file` names the place in messages."""
    document = Document(Path(file), text)
    _refuse_odd_text(document)
    _build_yaml(document)
    document.stop_if_wrong()
    return document.data


def _read(path: Path) -> bytes:
    try:
        if not (stat.S_ISREG(mode := path.stat().st_mode) or stat.S_ISDIR(mode)):
            raise ValueError("not a regular file")  # opening a FIFO would wait for ever
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError([Problem(str(path), 0, 0, E_FILE, "", f"cannot read the spec: {reason}")]) from None
    if len(content) > MAX_BYTES:
        raise SpecError([Problem(str(path), 0, 0, E_FILE, "", "the file is larger than 1 MB")])
    return content


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"not UTF-8 at byte {error.start} (line {line})"
        problem = Problem(str(path), line, 1, E_FILE, "", message, "save the file in the encoding UTF-8")
        raise SpecError([problem]) from None


def _refuse_odd_text(document: Document) -> None:
    if document.text.count("\n") > MAX_LINES:
        raise SpecError([Problem(document.file, MAX_LINES, 1, E_FILE, "", f"the file has more than {MAX_LINES} lines")])
    match = Reader.NON_PRINTABLE.search(document.text)
    if match is None:
        return
    place = _place_of(document, match.start())
    byte = len(document.text[: match.start()].encode())
    name = "NUL" if match[0] == "\0" else f"control character U+{ord(match[0]):04X}"
    message = f"not UTF-8 text: {name} at byte {byte} (line {place.line})"
    raise SpecError([Problem(*place, E_FILE, "", message, "save the file in the encoding UTF-8")])


def _place_of(document: Document, offset: int) -> Place:
    line, start = 1, 0
    for match in _BREAK.finditer(document.text, 0, offset):
        line, start = line + 1, match.end()
    return Place(document.file, line, offset - start + 1)


# --- YAML


def _build_yaml(document: Document) -> None:
    builder = TreeBuilder(document)
    try:
        for event in _one_document(document, yaml.parse(document.text, Loader=yaml.SafeLoader)):
            _add_event(builder, event, _event_place(document, event))
    except yaml.MarkedYAMLError as error:
        raise SpecError([_syntax_problem(document, error)]) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # PyYAML hands "\UFFFFFFFF" to chr()
        raise SpecError([Problem(document.file, 1, 1, E_SYNTAX, "", f"invalid YAML: {shown(str(error))}")]) from None


def _event_place(document: Document, event: yaml.Event) -> Place:
    return Place(document.file, event.start_mark.line + 1, event.start_mark.column + 1)


def _one_document(document: Document, stream: Iterator[yaml.Event]) -> Iterator[yaml.Event]:
    """The nodes of the first document; a second one is refused."""
    n_documents = 0
    for event in stream:
        if isinstance(event, ev.DocumentStartEvent):
            n_documents += 1
            if n_documents > 1:
                place = _event_place(document, event)
                message = f"one document expected, second starts at line {place.line}"
                raise SpecError([Problem(*place, E_SYNTAX, "", message)])
        elif isinstance(event, ev.NodeEvent | ev.CollectionEndEvent):
            yield event


def _add_event(builder: TreeBuilder, event: yaml.Event, place: Place) -> None:
    if isinstance(event, ev.CollectionEndEvent):
        builder.end()
        return
    if isinstance(event, ev.AliasEvent) or event.anchor is not None:
        raise SpecError([Problem(*place, E_SYNTAX, "", f"anchors/aliases are not supported (line {place.line})")])
    kind = _core_tag(event, place)
    if isinstance(event, ev.ScalarEvent):
        if builder.expects_key:
            builder.key(_key_text(builder, event, place), place)
        else:
            builder.scalar(_scalar(builder, event, kind, place), place)
    elif builder.expects_key:
        raise SpecError([Problem(*place, E_SYNTAX, "", "a key must be text, got a list or a mapping")])
    else:
        builder.start([] if isinstance(event, ev.SequenceStartEvent) else {}, place)


def _core_tag(event: yaml.Event, place: Place) -> str | None:
    """The name of an explicit core tag (`!!str` -> "str"), None without one; any other tag is refused."""
    if event.tag is None or event.tag == "!":
        return "str" if event.tag else None
    kind = event.tag.removeprefix(_TAG)
    fits = {"seq": ev.SequenceStartEvent, "map": ev.MappingStartEvent}.get(kind, ev.ScalarEvent)
    if event.tag != _TAG + kind or kind not in _CORE_TAGS or not isinstance(event, fits):
        raise SpecError([Problem(*place, E_SYNTAX, "", f"tag not allowed: {shown(event.tag)}", "remove the tag")])
    return kind


def _key_text(builder: TreeBuilder, event: ev.ScalarEvent, place: Place) -> str:
    text = event.value
    if event.style is None and text == "<<":
        message = f"anchors/aliases are not supported (line {place.line}): `<<` merges a mapping"
        raise SpecError([Problem(*place, E_SYNTAX, "", message)])
    if event.style is None and event.tag is None and not isinstance(resolve_plain(text), str):
        builder.document.problems.append(
            Problem(*place, E_VALUE, "", f"a key must be text, got {shown(text)}", "put the key in quotes")
        )
    return _whole_text(builder, text, place)


def _scalar(builder: TreeBuilder, event: ev.ScalarEvent, kind: str | None, place: Place) -> Any:
    is_plain = event.style is None
    if kind == "str" or (kind is None and not is_plain):
        return _whole_text(builder, event.value, place)
    value = resolve_plain(event.value)
    if kind == "float" and type(value) is int:
        value = float(value)
    if kind is not None and not isinstance(value, _CORE_TAGS[kind]):
        message = f"tag not allowed: !!{kind} does not fit {shown(event.value)}"
        raise SpecError([Problem(*place, E_SYNTAX, "", message, "remove the tag")])
    return _whole_text(builder, value, place) if type(value) is str else value


def _whole_text(builder: TreeBuilder, text: str, place: Place) -> str:
    """The text, unless it holds half a character (`"\\ud800"`), which no file can store."""
    if any("\ud800" <= c <= "\udfff" for c in text):
        message = f"expected text, got half a character (a surrogate) in {shown(text)}"
        builder.document.problems.append(Problem(*place, E_VALUE, "", message))
        return text.encode("utf-8", "replace").decode()
    return text


def _syntax_problem(document: Document, error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    what = ": ".join(part for part in (error.context, error.problem) if part)
    message = f"invalid YAML: {what}{_source_line(document.text, line, column)}"
    return Problem(document.file, line + 1, column + 1, E_SYNTAX, "", message, _syntax_hint(error))


def _syntax_hint(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or ""
    if "'\\t'" in problem:
        return "indent with spaces, not with tabs"
    if "cannot start any token" in problem:
        return "put text that starts with a special character in quotes"
    if "mapping values are not allowed" in problem:
        return "put text with ': ' in it in quotes"
    return ""


def _source_line(text: str, line: int, column: int, width: int = 100) -> str:
    """The line and a caret under the column (both from 0), cut to `width` characters around it."""
    lines = _BREAK.split(text)
    source = lines[line] if line < len(lines) else ""
    first = max(0, column - width // 2)
    excerpt = "".join(c if c.isprintable() else " " for c in source[first : first + width])
    return f"\n    {excerpt}\n    {' ' * (column - first)}^"


# --- JSON


_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def _build_json(document: Document) -> None:
    """JSON, with the places of its nodes from a scan of the tokens once the standard library has accepted it."""
    try:
        json.loads(document.text, parse_int=str, parse_constant=str)
    except json.JSONDecodeError as error:
        message = f"invalid JSON: {error.msg}{_source_line(document.text, error.lineno - 1, error.colno - 1)}"
        raise SpecError([Problem(document.file, error.lineno, error.colno, E_SYNTAX, "", message)]) from None
    except RecursionError:
        raise SpecError([Problem(document.file, 1, 1, E_SYNTAX, "", "nested too many levels deep")]) from None
    builder = TreeBuilder(document)
    line, line_start = 1, 0
    for token in _JSON_TOKEN.finditer(document.text):
        breaks = document.text.count("\n", line_start, token.start())
        if breaks:
            line, line_start = line + breaks, document.text.rindex("\n", 0, token.start()) + 1
        _add_token(builder, token[0], Place(document.file, line, token.start() - line_start + 1))


def _add_token(builder: TreeBuilder, word: str, place: Place) -> None:
    if word in "{[":
        builder.start({} if word == "{" else [], place)
    elif word in "}]":
        builder.end()
    elif word in ",:":
        return
    elif word in ("NaN", "Infinity", "-Infinity"):
        message = f"{word} is no JSON: a finite number is expected"
        raise SpecError([Problem(*place, E_SYNTAX, "", message)])
    else:
        value = _whole_text(builder, json.loads(word), place) if word[0] == '"' else resolve_plain(word)
        if builder.expects_key:
            builder.key(value, place)
        else:
            builder.scalar(value, place)


__all__ = ["MAX_BYTES", "Document", "KeyPath", "Unclear", "load_document", "parse_value"]
