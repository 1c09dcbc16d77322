"""``python -m sidecar.cli`` is ``lockgate``."""

from sidecar.cli import main

main()
