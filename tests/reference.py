"""Writes what is made of the code's tables into docs/: `make reference`, or `python -m tests.reference`."""

import re
from pathlib import Path

from sidecar.audit import schema as audit
from sidecar.policy.reference import key_tables, schema_text

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "policy.md"
SCHEMA = DOCS / "policy.schema.json"
AUDIT_PAGE = DOCS / "audit.md"
AUDIT_SCHEMA = DOCS / "audit.schema.json"

_KEYS = re.compile(r"(?<=<!-- keys: made by `make reference` -->\n).*(?=<!-- keys: end -->)", re.DOTALL)
_FIELDS = re.compile(r"(?<=<!-- fields: made by `make reference` -->\n).*(?=<!-- fields: end -->)", re.DOTALL)


def page() -> str:
    """The policy's page with the tables as they should be, whatever is in it."""
    return _KEYS.sub(lambda _: f"\n{key_tables()}\n", PAGE.read_text())


def audit_page() -> str:
    """The same of the audit log's page."""
    return _FIELDS.sub(lambda _: f"\n{audit.tables()}\n\n", AUDIT_PAGE.read_text())


if __name__ == "__main__":
    PAGE.write_text(page())
    SCHEMA.write_text(schema_text())
    AUDIT_PAGE.write_text(audit_page())
    AUDIT_SCHEMA.write_text(audit.schema_text())
