"""Automated invalidation: what looks wrong stops by itself, by rules of the policy."""
