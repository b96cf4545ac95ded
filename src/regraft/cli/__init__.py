"""The command line: one command a verb, made from the verb's own options."""

from __future__ import annotations


def main() -> None:
    """Run the command line; the entry point of the `regraft` script."""
    from regraft.cli.app import run

    run()
