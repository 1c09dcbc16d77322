"""The policy file for editors and for people: a JSON Schema, and tables of every key. Pure.

Both are made of the tables that read the file, so neither can say anything else than what is read.

The schema cannot say all: that a name is defined, that no two rules share an id, that a target has its CA. What it
lets pass, ``lockgate policy check`` may still refuse; what it refuses, so does the check.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.policy.tables.policy import PolicyTables
from sidecar.policy.tables.presets import PRESETS
from sidecar.toml import DURATION_SHAPE, NAME_SHAPE

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REF = "#/$defs/"
_NOISE = ("title",)


def schema() -> Schema:
    """The JSON Schema of a policy file."""
    made = PolicyTables.model_json_schema(by_alias=True, mode="validation")
    tables = {name: _plain(one) for name, one in made.pop("$defs").items()}
    tables["PresetTable"] = {key: one for key, one in tables["SegmentTable"].items() if key != "required"}
    whole = _plain(made)
    # A preset has its class and stale-after already.
    whole["properties"]["segments"]["properties"] = {name: {"$ref": f"{_REF}PresetTable"} for name in PRESETS}
    return {
        "$schema": DIALECT,
        "title": "Lockgate policy",
        **whole,
        "$defs": dict(sorted(tables.items())),
    }


def schema_text() -> str:
    """The same as the file that is shipped."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def key_tables() -> str:
    """Every table of the file in Markdown: what it is, and each key with its value, default and meaning."""
    whole = schema()
    top = {**whole, "description": "What stands before the first table, and the tables that there are."}
    parts = [_section(_Part("The whole file", top, whole, level=3))]
    seen: dict[str, str] = {}
    for part in _parts(whole, whole, "", seen):
        first = seen[part.table["x-name"]]
        if first != part.heading:
            parts.append(f"{'#' * part.level} `{part.heading}`\n\nThe same keys as `{first}`.")
        else:
            parts.append(_section(part))
    return "\n\n".join([*parts, _presets()]) + "\n"


@dataclass(frozen=True, slots=True)
class _Part:
    """A table of the file, and how it is written there."""

    heading: str
    table: Schema
    whole: Schema
    level: int


def _plain(table: Schema) -> Schema:
    """Without what TOML does not have (null), and what only repeats the key."""
    plain: Schema = {key: value for key, value in table.items() if key not in _NOISE}
    if "properties" in plain:
        plain["properties"] = {name: _property(one) for name, one in plain["properties"].items()}
    if isinstance(plain.get("description"), str):
        plain["description"] = _one_line(plain["description"])
    return plain


def _property(one: Schema) -> Schema:
    one = {key: value for key, value in one.items() if key not in _NOISE}
    if patterns := one.pop("patternProperties", None):
        # One shape of names, so one table for all: editors follow additionalProperties better.
        [(shape, inner)] = patterns.items()
        one |= {"propertyNames": {"pattern": shape}, "additionalProperties": inner}
    choices = [choice for choice in one.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        one = {**choices[0], **{key: value for key, value in one.items() if key != "anyOf"}}
    elif choices:
        one["anyOf"] = choices
    if one.get("default", "") is None:
        del one["default"]
    return one


# Tables in Markdown


def _parts(table: Schema, whole: Schema, path: str, seen: dict[str, str]) -> Iterator[_Part]:
    """The tables within a table, each before those within it; ``seen``: under which heading each came first."""
    for key, one in table["properties"].items():
        found = _table_of(one)
        if found is None:
            continue
        inner = {**whole["$defs"][found], "x-name": found}
        heading = _heading(path, key, one)
        level = 3 if heading.startswith("[") else 4
        is_new = found not in seen
        seen.setdefault(found, heading)
        yield _Part(heading, inner, whole, level)
        if is_new:
            yield from _parts(inner, whole, _path(path, key, one), seen)


def _heading(path: str, key: str, one: Schema) -> str:
    """``[services.NAME]``, ``[[grants]]``, or ``slo = { ... }`` where a table stands on one line."""
    if "additionalProperties" in one and not path:
        return f"[{key}.NAME]"
    if one.get("type") == "array" and (not path or key == "operations"):
        return f"[[{_dotted(path, key)}]]"
    within = f" in {path}" if path else ""
    if one.get("type") == "array":
        return f"{key} = [{{ ... }}]{within}"
    named = "NAME = { ... }" if "additionalProperties" in one else "..."
    return f"{key} = {{ {named} }}{within}"


def _path(path: str, key: str, one: Schema) -> str:
    return _dotted(path, f"{key}.NAME" if "additionalProperties" in one and not path else key)


def _dotted(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _table_of(one: Schema) -> str | None:
    """The table that a key holds: itself, in a list, or by names."""
    inner = one.get("items") or one.get("additionalProperties") or one
    target = inner.get("$ref", "") if isinstance(inner, dict) else ""
    name = target.removeprefix(_REF)
    return name if name.endswith("Table") else None


def _section(part: _Part) -> str:
    heading = f"`{part.heading}`" if part.heading[-1] in "]}" or " in " in part.heading else part.heading
    lines = [f"{'#' * part.level} {heading}", "", str(part.table.get("description", "")), ""]
    lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
    required = part.table.get("required", ())
    for key, one in part.table["properties"].items():
        default = "required" if key in required else _default(one)
        lines.append(
            f"| `{key}` | {_value(one, part.whole)} | {default} | {_cell(one.get('description', ''))} |"
        )
    return "\n".join(lines)


def _default(one: Schema) -> str:
    default = one.get("default")
    if default in (None, "", [], ()):
        return ""
    return f"`{json.dumps(default)}`"


def _value(one: Schema, whole: Schema) -> str:
    """What may stand there, in words."""
    if "$ref" in one:
        found = whole["$defs"][one["$ref"].removeprefix(_REF)]
        return " or ".join(f'`"{word}"`' for word in found["enum"]) if "enum" in found else "table"
    if "anyOf" in one:
        return " or ".join(dict.fromkeys(_value(choice, whole) for choice in one["anyOf"]))
    if one.get("type") == "array":
        return "tables" if _table_of(one) else f"list of {_value(one['items'], whole)}"
    if one.get("type") == "object":
        return "tables by name" if _table_of(one) else "table"
    return _scalar(one)


_SHAPES = {NAME_SHAPE: "name", DURATION_SHAPE: "duration"}
_WORDS = {"string": "text", "integer": "integer", "number": "number", "boolean": "`true` or `false`"}


def _scalar(one: Mapping[str, Any]) -> str:
    if one.get("pattern") in _SHAPES:
        return _SHAPES[one["pattern"]]
    if one.get("format") in ("date", "date-time"):
        return "date" if one["format"] == "date" else "date and time"
    word = _WORDS.get(str(one.get("type")), "any value")
    if "minimum" in one and "maximum" in one:
        return f"{word}, {one['minimum']} to {one['maximum']}"
    return word


def _presets() -> str:
    keys = list(dict.fromkeys(key for preset in PRESETS.values() for key in preset))
    lines = ["### Segments that are built in", "", "A table of the same name changes what it names.", ""]
    lines += [f"| segment | {' | '.join(f'`{key}`' for key in keys)} |", f"|---|{'---|' * len(keys)}"]
    lines += [
        f"| {name} | {' | '.join(str(preset[key]) for key in keys)} |" for name, preset in PRESETS.items()
    ]
    return "\n".join(lines)


def _one_line(text: str) -> str:
    """A docstring, as it reads in Markdown."""
    return " ".join(text.split()).replace("``", "`")


def _cell(text: str) -> str:
    return _one_line(text).replace("|", "\\|")
