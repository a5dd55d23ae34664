"""`rsna-e2e VERB`: parses, calls, prints. Everything heavy is imported inside the verb, so that --help is quick."""

from rsna_e2e.cli.program import main

__all__ = ["main"]
