"""The Python environments of the peers: one a folder below `.peers/`, from the pins in `peers/NAME.txt`, made once.

    python bench/environments.py [NAME ...]

A stamp in the folder holds the digest of the pins; while it fits, nothing is installed. No package of a peer is a
dependency of Regraft.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
PINS = HERE / "peers"
FOLDER = HERE / ".peers"


def names() -> list[str]:
    """Return the environments that can be made."""
    return sorted(path.stem for path in PINS.glob("*.txt"))


def environment(name: str) -> Path:
    """Return the interpreter of a peer's environment, made if it is not there or has other pins.

    Raises:
        SystemExit: There are no such pins, or they cannot be installed.
    """
    pins = PINS / f"{name}.txt"
    if not pins.is_file():
        sys.exit(f"no environment '{name}': there are {', '.join(names())}")
    folder = FOLDER / name
    python, stamp = folder / "bin" / "python", folder / ".pins"
    wanted = hashlib.sha256(pins.read_bytes() + platform.python_version().encode()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="ascii") == wanted:
        return python
    sys.stderr.write(f"installing the environment of the peer '{name}' (minutes, once)\n")
    shutil.rmtree(folder, ignore_errors=True)
    venv.EnvBuilder(with_pip=True, symlinks=True).create(folder)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(pins)]
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"the packages of {pins} could not be installed")
    check = subprocess.run([str(python), "-m", "pip", "check"], check=False, capture_output=True, text=True)
    if check.returncode:
        sys.exit(f"the pins of {pins} do not fit together:\n{check.stdout}")
    stamp.write_text(wanted, encoding="ascii")
    return python


def main() -> None:
    """Make the named environments, or all."""
    for name in sys.argv[1:] or names():
        sys.stdout.write(f"{name}: {environment(name)}\n")


if __name__ == "__main__":
    main()
