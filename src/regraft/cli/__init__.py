"""The command line: one command a verb, made from the verb's own options."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command line; the entry point of the `regraft` script."""
    # Read by the OpenMP library when torch loads it. Threads that spin while they wait for each other lose most of their time
    # as soon as another program wants a core; threads that sleep do not, and are about as fast on idle cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from regraft.models.unasked import keep_out

    keep_out()
    from regraft.cli.app import run

    run()
