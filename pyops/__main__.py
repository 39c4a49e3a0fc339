"""``python -m pyops``."""

from pyops.cli.app import main

main()
