"""`python -m ganvas` is the command line."""

from ganvas.cli import main

main()
