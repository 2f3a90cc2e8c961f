"""Files of devices: a good one is read whole, a bad one is one error that names file, line and field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from djinn_fx.errors import SettingsError
from djinn_fx.hardware.rows import SCHEMA, Rows, parse_devices, read_devices
from djinn_fx.units import parse_bytes
from tests.examples import examples

ROW: dict[str, Any] = {
    "kind": "cuda",
    "peak_flops": {"float32": 1e12},
    "bandwidth": 1e9,
    "memory": "8GB",
    "launch_overhead": 1e-6,
    "source": "https://example.com",
}


def parse(row: Any, **top: Any) -> Any:
    return parse_devices(yaml.safe_dump({"schema": SCHEMA, "devices": {"x": row}, **top}), "devices.yaml")


def test_a_complete_row_is_read(tmp_path: Path) -> None:
    file = tmp_path / "devices.yaml"
    data = {"schema": SCHEMA, "devices": {"x": ROW}, "default_for": {"cuda": "x"}}
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    rows, defaults = read_devices(file)
    assert rows["x"].memory_bytes == parse_bytes("8GB")
    assert (rows["x"].processors, rows["x"].clock_hz, rows["x"].cache_bytes, rows["x"].retrieved) == (0, 0.0, 0, "")
    assert defaults == {"cuda": "x"}


def test_everything_that_may_be_said_is_read() -> None:
    more = {
        "title": "X 8GB",
        "aliases": ["Company X"],
        "processors": 12,
        "clock": "1.5e9",
        "cache": "4MiB",
        "retrieved": "2026-11-21",
        "efficiency": {"float32": 0.9, "bandwidth": 0.8},
        "efficiency_source": "measured",
    }
    row = parse({**ROW, **more})[0]["x"]
    assert (row.title, row.aliases, row.processors, row.clock_hz) == ("X 8GB", ("Company X",), 12, 1.5e9)
    assert (row.cache_bytes, row.retrieved) == (4 * 1024**2, "2026-11-21")
    assert (dict(row.efficiency), row.efficiency_source) == ({"float32": 0.9, "bandwidth": 0.8}, "measured")


def test_a_date_without_quotes_is_a_date() -> None:
    text = yaml.safe_dump({"schema": SCHEMA, "devices": {"x": {**ROW, "retrieved": "DAY"}}})
    rows, _ = parse_devices(text.replace("DAY", "2026-11-21"), "x.yaml")
    assert rows["x"].retrieved == "2026-11-21"


@pytest.mark.parametrize("field", sorted(ROW))
def test_a_missing_field_is_named(field: str) -> None:
    row = {key: value for key, value in ROW.items() if key != field}
    with pytest.raises(SettingsError, match=rf"devices.yaml:2:3: device 'x': the field '{field}' is missing"):
        parse(row)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory": "8"}, "memory: cannot read '8' as a size"),
        ({"memory": 8}, "memory: expected a size with its unit"),
        ({"memory": "0GB"}, "memory: expected more than 0 bytes"),
        ({"bandwidth": "fast"}, "bandwidth: expected a number such as 1.5e12, found 'fast'"),
        ({"bandwidth": "9 Gb/s"}, "bandwidth: cannot read '9 Gb/s'"),
        ({"bandwidth": -1.0}, "bandwidth: expected more than 0"),
        ({"bandwidth": True}, "bandwidth: expected a number, found True"),
        ({"bandwidth": float("nan")}, "bandwidth: expected a finite number"),
        ({"launch_overhead": -1e-6}, "launch_overhead: expected no negative number"),
        ({"launch_overhead": "4 cycles"}, "launch_overhead: cannot read '4 cycles' as a duration"),
        ({"source": ""}, "source: expected a text"),
        ({"kind": 3}, "kind: expected a text"),
        ({"peak_flops": 3}, "peak_flops: expected operations per second by dtype"),
        ({"peak_flops": {"float16": 1e12}}, "peak_flops: expected .* float32 among them"),
        ({"peak_flops": {"float32": 0}}, "peak_flops: expected more than 0"),
        ({"peak_flops": {"float32": 1e12, "flaot16": 1e12}}, "unknown key 'flaot16'; did you mean 'float16'"),
        ({"peak_flops": {"float32": 1e12, "bandwidth": 1e12}}, "unknown key 'bandwidth'"),
        ({"procesors": 3}, "unknown key 'procesors'; did you mean 'processors'"),
        ({"processors": 0}, "processors: expected a whole number of at least 1"),
        ({"bandwidth": 10**400}, "bandwidth: int too large"),
        ({"processors": 2.5}, "processors: expected a whole number"),
        ({"aliases": "one"}, "aliases: expected a list of names"),
        ({"retrieved": "yesterday"}, "retrieved: Invalid isoformat"),
        ({"efficiency": {"float32": 80}}, "efficiency: float32: expected a share of the peak"),
        ({"efficiency": 0.8}, "efficiency: expected measured shares"),
    ],
)
def test_a_bad_field_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=rf"^devices.yaml:[0-9]+:[0-9]+: device 'x': .*{message}") as caught:
        parse({**ROW, **change})
    field = next(iter(change))
    text = yaml.safe_dump({"schema": SCHEMA, "devices": {"x": {**ROW, **change}}}).splitlines()
    line = int(str(caught.value).split(":")[1])
    assert field in text[line - 1] or any(str(key) in text[line - 1] for key in change[field])


@pytest.mark.parametrize("row", [None, 3, ["a"]])
def test_a_row_that_is_no_table(row: Any) -> None:
    with pytest.raises(SettingsError, match="device 'x': expected keys and values"):
        parse(row)


@pytest.mark.parametrize("data", [None, [], {"schema": "djinn_fx.devices/9"}])
def test_another_schema_is_refused(data: object) -> None:
    with pytest.raises(SettingsError, match=SCHEMA):
        parse_devices(yaml.safe_dump(data) if data is not None else "", "devices.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema: [", r"d.yaml:[12]:[0-9]+: "),
        ("schema: !!python/object:os.system x", r"d.yaml:1:9: could not determine a constructor"),
        (f"schema: {SCHEMA}\nschema: {SCHEMA}\n", r"d.yaml:2:1: the key 'schema' is there twice; first in line 1"),
        (f"schema: {SCHEMA}\ndevices: {{}}\n", r"d.yaml:2:10: expected devices"),
        (f"schema: {SCHEMA}\n", r"d.yaml:1:1: expected devices"),
        (f"schema: {SCHEMA}\ndevises: {{}}\n", r"d.yaml:2:1: .*unknown key 'devises'; did you mean 'devices'"),
        (f"schema: {SCHEMA}\ndevices: &a\n  x: *a\n", r"d.yaml:2:10: a cycle of aliases"),
        ("{1: 2, [1]: 3}", r"d.yaml:1:2: the key 1 is no text"),
        ("schema: *nothing", r"d.yaml:1:9: found undefined alias"),
        ("a: 2026-13-45", r"d.yaml:1:4: month must be in"),
        ("\x00", r"d.yaml: unacceptable character"),
    ],
)
def test_texts_that_are_no_files_of_devices(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_devices(text, "d.yaml")


def test_a_default_must_be_a_row() -> None:
    with pytest.raises(SettingsError, match="default_for cuda names 'y', which is no row"):
        parse(ROW, default_for={"cuda": "y"})


def test_defaults_must_be_a_table() -> None:
    with pytest.raises(SettingsError, match=r"devices.yaml:1:1: expected default_for"):
        parse(ROW, default_for=["x"])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read as a file of devices"):
        read_devices(tmp_path / "none.yaml")


def outcome(text: str) -> tuple[Rows | None, str]:
    """The rows, or the error's message."""
    try:
        return parse_devices(text, "d.yaml")[0], ""
    except SettingsError as error:
        return None, str(error)


GOOD = yaml.safe_dump(
    {"schema": SCHEMA, "devices": {"x": {**ROW, "aliases": ["y"], "processors": 3, "efficiency": {"float32": 0.5}}}}
)


@examples(60)
@given(place=st.integers(0, len(GOOD)), gone=st.integers(0, 12), new=st.text("{}[]:&*!#,-'\" \n0ax", max_size=6))
@example(place=0, gone=0, new="\t")
def test_a_damaged_file_is_read_or_refused_by_one_error_with_its_name(place: int, gone: int, new: str) -> None:
    text = GOOD[:place] + new + GOOD[place + gone :]
    rows, refused = outcome(text)
    assert refused.startswith("d.yaml") if rows is None else not refused
    assert all(row.peak("float32") > 0 and row.memory_bytes > 0 for row in (rows or {}).values())


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates())


@examples(60)
@given(
    field=st.sampled_from(
        sorted({*ROW, "aliases", "processors", "clock", "cache", "retrieved", "efficiency", "title"})
    ),
    value=st.one_of(VALUES, st.lists(VALUES, max_size=3), st.dictionaries(st.one_of(st.text(), st.integers()), VALUES)),
)
def test_any_value_of_any_field_is_taken_or_refused_with_its_line(field: str, value: Any) -> None:
    rows, refused = outcome(yaml.safe_dump({"schema": SCHEMA, "devices": {"x": {**ROW, field: value}}}))
    assert refused.startswith("d.yaml:") if rows is None else not refused
