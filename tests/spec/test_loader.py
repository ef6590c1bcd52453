from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcluster.errors import SpecError
from dlcluster.spec.document import Place
from dlcluster.spec.loader import load_document, parse_value
from dlcluster.spec.scalars import Unclear, parse_duration, resolve_plain
from dlcluster.spec.schema import load_spec

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff\ufffe\uffff"), max_size=20)
PRINTABLE = TEXT.filter(lambda text: yaml.reader.Reader.NON_PRINTABLE.search(text) is None)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | PRINTABLE,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(PRINTABLE, children, max_size=4),
    max_leaves=20,
)


class Quoting(yaml.SafeDumper):
    """Every text in quotes: what an unquoted text means is for our own rules to say."""

    def ignore_aliases(self, data):
        return True


Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def loaded(folder: Path, content: str | bytes, name: str = "a.yaml"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_document(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("loader")


@given(value=VALUES, flow=st.booleans())
@settings(deadline=None)
def test_what_is_written_as_yaml_comes_back(folder, value, flow):
    document = loaded(
        folder, yaml.dump(value, Dumper=Quoting, allow_unicode=True, default_flow_style=flow, sort_keys=False)
    )
    assert document.problems == []
    assert document.data == value
    assert json.dumps(document.data) == json.dumps(value)


@given(value=VALUES)
@settings(deadline=None)
def test_what_is_written_as_json_comes_back(folder, value):
    document = loaded(folder, json.dumps(value, indent=1), "a.json")
    assert document.problems == []
    assert json.dumps(document.data) == json.dumps(value)


@given(text=st.text(max_size=200) | st.text("[]{}:,-? &*!|>'\"%@`#\n\t ab0", max_size=200))
@settings(deadline=None, max_examples=300)
def test_no_text_does_anything_but_load_or_be_refused(folder, text):
    path = folder / "random.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(SpecError):
        load_spec(path)


@given(content=st.binary(max_size=200), name=st.sampled_from(["a.yaml", "a.json"]))
@settings(deadline=None)
def test_no_bytes_do_anything_but_load_or_be_refused(folder, content, name):
    path = folder / name
    path.write_bytes(content)
    with pytest.raises(SpecError):
        load_spec(path)


@given(text=st.text(max_size=60))
@settings(deadline=None)
def test_no_value_of_set_does_anything_but_parse_or_be_refused(text):
    try:
        parse_value(text, "--set a=...")
    except SpecError as error:
        assert "--set a=..." in str(error)


def test_every_node_and_key_has_its_place(tmp_path):
    document = loaded(tmp_path, "a: 1\nb:\n  - x\n  - {c: [2, 3]}\n")
    file = str(document.path)
    assert document.places["a",] == Place(file, 1, 4)
    assert document.key_places["b",] == Place(file, 2, 1)
    assert document.places["b", 1, "c", 1] == Place(file, 4, 13)
    assert document.key_places["b", 1, "c"] == Place(file, 4, 6)
    assert document.place(("b", 1, "zzz", 5)) == Place(file, 4, 5)


def test_places_in_json(tmp_path):
    document = loaded(tmp_path, '{\n  "a": [1,\n   {"b": "x\\"y"}]}', "a.json")
    file = str(document.path)
    assert document.places["a", 1, "b"] == Place(file, 3, 10)
    assert document.key_places["a",] == Place(file, 2, 3)
    assert document.data == {"a": [1, {"b": 'x"y'}]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1e4", 1e4), ("-1e-3", -1e-3), ("12e03", 12e3), ("1.0e4", 1e4), ("1e+4", 1e4), (".5", 0.5),
        ("5.", 5.0), ("3.10", 3.1), ("+3", 3), ("-7", -7), ("0", 0), ("1e-400", 0.0),
        ("9223372036854775807", 2**63 - 1),
        ("true", True), ("FALSE", False), ("null", None), ("~", None), ("", None),
        ("y", "y"), ("n", "n"), ("1.2.3", "1.2.3"), ("e5", "e5"), ("1e", "1e"), (".", "."), ("-", "-"),
        ("tRue", "tRue"),
        ("1-00:00:00", "1-00:00:00"), ("sgd", "sgd"),
    ],
)  # fmt: skip
def test_plain_scalars_of_the_core_schema(text, value):
    resolved = resolve_plain(text)
    assert (resolved, type(resolved)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    ["yes", "No", "on", "OFF", "017", "0899", "1_000", "0x1F", "0o17", "15:00", "1:30:00", "60:00", "12:30:45.5",
     "2024-01-01", "2024-01-01 10:00:00", ".nan", ".inf", "-.INF", "nan", "Infinity", "1_0.5"],
)  # fmt: skip
def test_scalars_that_others_read_otherwise_are_unclear_text(text):
    resolved = resolve_plain(text)
    assert isinstance(resolved, Unclear)
    assert resolved == text
    assert resolved.is_text
    assert "quotes" in resolved.hint


@pytest.mark.parametrize("text", ["9" * 5000, "9223372036854775808", "-9223372036854775809", "1e400", "-1e400"])
def test_numbers_out_of_range_are_no_text_either(text):
    resolved = resolve_plain(text)
    assert isinstance(resolved, Unclear)
    assert not resolved.is_text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("4h", 14400), ("2d", 172800), ("0:15:00", 900), ("1:30:00", 5400),
     ("1-12:00:00", 129600),
     ("1.5h", 5400), ("100:00:00", 360000)],
)  # fmt: skip
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "value", ["15:00", "1:90:00", "15", "m", "", "-5m", "5 minutes", 30, 1.5, True, None, [], "1e3s"]
)
def test_no_durations(value):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(value)


HOSTILE = """
import resource, sys, time
from pathlib import Path
from dlcluster.spec.schema import load_spec
from dlcluster.errors import SpecError
def peak():  # of this program alone: ru_maxrss would count the process it was forked from
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) / 1024
start = time.process_time()
try:
    load_spec(Path(sys.argv[1]))
except SpecError as error:
    print(len(str(error)), time.process_time() - start, peak())
"""

HOSTILE_FILES = {
    "brackets": "[" * 900_000,
    "lists": "[" + "[]," * 330_000 + "]",
    "keys": "".join(f"k{k}: 1\n" for k in range(90_000)),
    "questions": "? " * 400_000,
    "quotes": '"' * 900_000,
    "escapes": '"' + r"\x41" * 240_000 + '"',
    "lines": "a\n" * 450_000,
    "folded": ">\n" + " a\n" * 300_000,
    "scalar": "name: " + "a" * 990_000,
    "comments": "#\n" * 499_000,
    "bomb": "a: &a [x,x]\n" + "b: [" + "*a," * 300_000 + "]",
    "ten_megabytes": "name: " + "a" * 10_000_000,
    "constraint": "where: ['" + "(" * 900_000 + "']",
    "power": "where: ['9**9**9**9 > 1', '" + "9*" * 490 + "9 > 1']",
    "regex": "command: x\nmetrics: {a: '" + "(" * 9000 + "'}",
}


@pytest.mark.parametrize("name", HOSTILE_FILES)
def test_hostile_files_cost_neither_time_nor_memory(tmp_path, name):
    path = tmp_path / "sweep.yaml"
    path.write_text(HOSTILE_FILES[name])
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", HOSTILE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=root, check=False)
    assert done.stderr == ""
    n_characters, seconds, megabytes = map(float, done.stdout.split())
    assert n_characters < 5000
    assert seconds < 2
    assert megabytes < 300
