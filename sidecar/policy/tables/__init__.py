"""The policy file as it is written: a schema for each table, and what can be wrong in each field."""
