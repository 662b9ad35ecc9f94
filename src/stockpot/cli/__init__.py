"""The command line: arguments, progress, answers. Everything it does, the library can do too."""

from stockpot.cli.main import main

__all__ = ["main"]
