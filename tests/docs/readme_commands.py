"""Run the commands of a Markdown page: every line of every ```bash block, in order, in one empty folder.

    python tests/docs/readme_commands.py README.md

Blocks under the comment `<!-- not run -->` are left out (they install things or wait for a browser). A command that fails
stops the run with its exit code. `regraft` and `python` are those of the environment that runs this script.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_BLOCK = re.compile(r"(?P<skip><!-- not run -->\s*)?```(?P<language>bash|python)\n(?P<body>.*?)```", re.DOTALL)


def commands(page: str) -> list[tuple[str, str]]:
    """Return (language, text) of every block that is meant to run, in order."""
    return [(m["language"], m["body"]) for m in _BLOCK.finditer(page) if not m["skip"]]


def main() -> int:
    """Run the page named on the command line."""
    page = Path(sys.argv[1]).resolve()
    binaries = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as folder:
        for language, body in commands(page.read_text(encoding="utf-8")):
            sys.stderr.write(f"--- {language}\n{body}")
            sys.stderr.flush()
            call = ["bash", "-euo", "pipefail", "-c", body] if language == "bash" else [sys.executable, "-c", body]
            code = subprocess.run(call, cwd=folder, env=environment, check=False).returncode
            if code:
                sys.stderr.write(f"{page.name}: the block above ended with exit code {code}\n")
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
