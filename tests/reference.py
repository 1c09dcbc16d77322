"""Writes what is made of the policy's tables into docs/: `make reference`, or `python -m tests.reference`."""

import re
from pathlib import Path

from sidecar.policy.reference import key_tables, schema_text

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "policy.md"
SCHEMA = DOCS / "policy.schema.json"

_BLOCK = re.compile(r"(?<=<!-- keys: made by `make reference` -->\n).*(?=<!-- keys: end -->)", re.DOTALL)


def page() -> str:
    """The page with the tables as they should be, whatever is in it."""
    return _BLOCK.sub(lambda _: f"\n{key_tables()}\n", PAGE.read_text())


if __name__ == "__main__":
    PAGE.write_text(page())
    SCHEMA.write_text(schema_text())
