from __future__ import annotations

import sys
from pathlib import Path

# Tiny models of every family are made by the tests of the models.
sys.path.append(str(Path(__file__).parent.parent / "models"))
