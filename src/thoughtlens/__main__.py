"""`python -m thoughtlens` is `thoughtlens`."""

from thoughtlens.cli import main

main()
