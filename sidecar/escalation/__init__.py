"""Escalations: what sessions ask for, who agrees, what it becomes (docs/escalation.md). Pure."""
