"""TOML files that humans write, checked whole: every fault at once, each with its line.

tomli gives positions for syntax errors only, and pydantic knows paths but no lines: :mod:`sidecar.toml_lines`
brings the two together.

What tomli leaves to its caller: a cap on size, keys of hundreds of parts (25 s of CPU for 1 MiB), and
RecursionError and ValueError beside its own error.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin

import tomli
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from pki.errors import ConfigError, Fault, LocalError
from pki.spiffe import is_name
from sidecar.address import Address
from sidecar.defaults import TOML_BYTES
from sidecar.duration import format_duration, parse_duration
from sidecar.toml_blocks import is_for_blocks, parse_blocks
from sidecar.toml_lines import Path, key_lines

M = TypeVar("M", bound="Table")

MAX_SHOWN_CHARS = 80
MAX_SUGGESTED_FROM = 2_000
"""Beyond this many names no "did you mean" is looked for: it takes milliseconds each."""


def load_toml(data: bytes, name: str, model: type[M], limit: int = TOML_BYTES) -> M:
    """The ``model`` in a file's bytes; raises ConfigError with every fault. ``name`` stands in the messages."""
    return parse_document(data, name, limit).load(model)


@dataclass(frozen=True, slots=True)
class Document:
    """A file that is valid TOML, and the line of each header and key in it."""

    name: str
    tables: dict[str, Any]
    lines: Mapping[Path, int]

    def load(self, model: type[M], context: object = None) -> M:
        """The tables by a schema; raises ConfigError. ``context`` is what the validators see as info.context."""
        try:
            return model.model_validate(self.tables, context=context)
        except ValidationError as error:
            details = sorted(error.errors(include_url=False), key=lambda detail: self.line(_path(detail)))
            raise ConfigError(self._fault(detail, model) for detail in details) from None

    def line(self, path: Path) -> int:
        """The line of the nearest key or header at or above ``path``."""
        while path not in self.lines:
            path = path[:-1]
        return self.lines[path]

    def where(self, path: Path) -> str:
        """``file:line key`` as faults show it."""
        place = f"{self.name}:{self.line(path)}"
        return f"{place} {_dotted(path)}" if path else place

    def _fault(self, detail: ErrorDetails, model: type["Table"]) -> Fault:
        path = _path(detail)
        if detail["type"] == "extra_forbidden":
            return Fault(self.where(path), *_unknown_key(path, model))
        if detail["type"] == _OURS:
            return Fault(self.where(path), detail["ctx"]["what"], detail["ctx"]["hint"])
        return Fault(self.where(path), _saying(detail))


def parse_document(data: bytes, name: str, limit: int = TOML_BYTES) -> Document:
    """The tables in ``data``, at most ``limit`` bytes; raises ConfigError when they are not TOML we read."""
    if len(data) > limit:
        raise ConfigError([Fault(name, f"{len(data)} bytes, at most {limit} are read")])
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([Fault(f"{name}:{line}", "not UTF-8")]) from None
    return Document(name, _parse(text, name), key_lines(text))


def _kebab(field: str) -> str:
    """``stale_after`` is ``stale-after`` in the file; a trailing underscore keeps Python's keywords away."""
    return field.rstrip("_").replace("_", "-")


class Table(BaseModel):
    """Base of every TOML table: strict types, no unknown keys, frozen, keys in kebab-case.

    Made from a file's tables only; to vary one in code, ``model_copy(update=...)``.
    """

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        alias_generator=_kebab,
    )

    later: ClassVar[frozenset[str]] = frozenset()
    """Keys of the language that this version refuses: a rule that is not enforced is worse than none."""


_OURS = "lockgate"


def fault(what: str, hint: str = "") -> PydanticCustomError:
    """For validators to raise: the text of a fault, whose place is that of the value."""
    return PydanticCustomError(_OURS, "{what}", {"what": what, "hint": hint})


def quoted(text: str) -> str:
    """``text`` from a file, fit for one line of a message: no control bytes, not too long."""
    shown = text if text.isprintable() else ascii(text)[1:-1]
    return f'"{shown[:MAX_SHOWN_CHARS]}"'


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The hint with the nearest known word; empty when none is near."""
    names = sorted(known)
    if len(names) > MAX_SUGGESTED_FROM or len(word) > MAX_SHOWN_CHARS:
        return ""
    near = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {quoted(near[0])}?" if near else ""


NAME_SHAPE = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
DURATION_SHAPE = "^[0-9]{1,9}(ms|[smhd])$"
"""For editors, which read a JSON Schema; the validators here decide."""


def _schema(shape: str, *examples: str) -> dict[str, Any]:
    return {"type": "string", "pattern": shape, **({"examples": list(examples)} if examples else {})}


def _duration(value: object) -> object:
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except LocalError:
            pass
    raise fault('must be a duration such as "30s", "5m" or "1h"')


def _address(value: object) -> object:
    if isinstance(value, Address):  # a default
        return value
    if isinstance(value, str):
        try:
            return Address.parse(value)
        except LocalError as error:
            raise fault(f"{quoted(value)} is {error}") from None
    raise fault('must be a string "host:port"')


def _name(value: str) -> str:
    if not is_name(value):
        raise fault(f"{quoted(value)} is not a name", "1 to 63 of a-z, 0-9 and inner hyphens")
    return value


Duration = Annotated[int, BeforeValidator(_duration), WithJsonSchema(_schema(DURATION_SHAPE, "30s", "5m"))]
"""Integer microseconds, written as a string."""

AddressField = Annotated[Address, BeforeValidator(_address, json_schema_input_type=str)]
NameSchema = WithJsonSchema(_schema(NAME_SHAPE))
Name = Annotated[str, AfterValidator(_name), NameSchema]

NotStrict = Field(strict=False)
"""For tuples, which TOML's arrays are not, and enums."""


def between(low: int, high: int) -> AfterValidator:
    """Bounds of a :data:`Duration` (us, both included)."""

    def check(duration: int) -> int:
        if not low <= duration <= high:
            raise fault(f"must be from {format_duration(low)} to {format_duration(high)}")
        return duration

    return AfterValidator(check)


# Faults


def _path(detail: ErrorDetails) -> Path:
    """The path of a pydantic error; a bad key of a table is found at the entry it names."""
    return tuple(part for part in detail["loc"] if part != "[key]")


def _dotted(path: Path) -> str:
    """``grants[2].services[0]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + quoted(part)[1:-1]
    return text


_KINDS = {
    "string_type": "a string",
    "int_type": "an integer",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
}


def _saying(detail: ErrorDetails) -> str:
    """What is wrong, in the words of a TOML file."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}"
    if kind == "missing":
        return "is missing"
    if kind in ("literal_error", "enum"):
        return f"must be one of {context['expected']}"
    for bound, words in (("ge", "at least"), ("le", "at most")):
        if bound in context:
            return f"must be {words} {context[bound]}"
    return detail["msg"]


def _unknown_key(path: Path, model: type[Table]) -> tuple[str, str]:
    """What is wrong with the unknown key at ``path``, and what to do about it."""
    key, owner = str(path[-1]), _schema_at(path[:-1], model)
    if key in owner.later:
        return "not enforced by this version", "remove it, and check that the rest says what you mean"
    known = [field.alias or name for name, field in owner.model_fields.items()]
    return "unknown key", did_you_mean(key, known) or "known: " + ", ".join(sorted(known))


def _schema_at(path: Path, model: type[Table]) -> type[Table]:
    """The schema of the table at ``path``."""
    found: Any = model
    for part in path:
        if isinstance(found, type) and issubclass(found, BaseModel):
            fields = {field.alias: field for field in found.model_fields.values()}
            found = fields[str(part)].annotation
        else:
            found = get_args(found)[0 if isinstance(part, int) else 1]
        found = _without_wrapping(found)
    owner: type[Table] = found
    return owner


def _without_wrapping(annotation: Any) -> Any:
    """The table in ``Table | None`` or ``Annotated[Table, ...]``; what is neither stays as it is."""
    if get_origin(annotation) is Annotated:
        return _without_wrapping(get_args(annotation)[0])
    inner = [one for one in map(_without_wrapping, get_args(annotation)) if _is_table(one)]
    is_optional = len(inner) == 1 and NoneType in get_args(annotation)
    return inner[0] if is_optional else annotation


def _is_table(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Table)


# TOML


# Tables are at most four deep in any schema here.
_LONG_KEY = re.compile(
    r"""(?m)(?:^|[\[{,])[ \t]*+(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){16}"""
)


_BLOCK_CHARS = 65_536


def _long_key(text: str) -> int | None:
    """Where a key of very many parts begins; None for none. No key goes over a line's end.

    Block by block: one search over 32 MiB would keep the interpreter from every other thread for a second.
    """
    start = 0
    while start < len(text):
        end = text.find("\n", start + _BLOCK_CHARS) + 1 or len(text)
        if found := _LONG_KEY.search(text, start, end):
            return found.start()
        start = end
    return None


def _parse(text: str, name: str) -> dict[str, Any]:
    long = _long_key(text)
    if long is not None:
        line = text.count("\n", 0, long) + 1
        raise ConfigError([Fault(f"{name}:{line}", "a key of more than 16 parts")])
    if len(text) <= TOML_BYTES or not is_for_blocks(text):
        return _loads(text, name, 0)
    made = parse_blocks(text, lambda piece, line: _loads(piece, name, line))
    if isinstance(made, str):
        what = f"{quoted(made)} is defined in two ways"
        raise ConfigError([Fault(name, what, f"only as [[{made}]], where a file is so large")])
    return made


def _loads(text: str, name: str, line: int) -> dict[str, Any]:
    """``line``: how many lines of the file are before this piece."""
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        what = f"column {error.colno}: {quoted(error.msg)[1:-1]}"
        raise ConfigError([Fault(f"{name}:{line + error.lineno}", what)]) from None
    except RecursionError:
        raise ConfigError([Fault(name, "nested too deep")]) from None
    except ValueError:  # an integer of thousands of digits
        raise ConfigError([Fault(name, "a number is too long")]) from None
