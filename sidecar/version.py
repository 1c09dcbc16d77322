"""The version of this software, from its package metadata: it stands in pyproject.toml and nowhere else."""

from importlib.metadata import version

VERSION = version("lockgate")
