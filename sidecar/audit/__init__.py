"""What happened, as a chain of records that shows any change made to it later (docs/architecture.md, "Audit")."""
