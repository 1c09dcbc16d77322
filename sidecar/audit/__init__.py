"""What happened, as a chain of records that shows any later change (docs/architecture.md, "Audit")."""
