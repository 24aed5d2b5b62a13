"""`python -m lmcl_core` is `lmcl`."""

from .cli import main

main()
