"""`rsna-e2e VERB`: parses, calls, prints. Heavy modules are imported inside the verbs, so that --help is quick."""

from rsna_e2e.cli.program import main

__all__ = ["main"]
