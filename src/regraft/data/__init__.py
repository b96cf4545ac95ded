"""Rows: readers, roles of columns, splits, fingerprints, checks, samples. Arrow underneath, no tensors."""

from typing import TYPE_CHECKING

from regraft.registry import Registry

if TYPE_CHECKING:
    from regraft.data.reader import Reader
    from regraft.data.samples.fetched import Fetched
    from regraft.data.writer import Writer

READERS: "Registry[type[Reader]]" = Registry(
    "readers",
    {
        "csv": "regraft.data.read_delimited:CsvReader",
        "tsv": "regraft.data.read_delimited:TsvReader",
        "jsonl": "regraft.data.read_jsonl:JsonLinesReader",
        "parquet": "regraft.data.read_parquet:ParquetReader",
        "arrow": "regraft.data.read_arrow:ArrowReader",
        "ts": "regraft.data.read_ts:TsReader",
    },
    aliases={"json-lines": "jsonl", "ndjson": "jsonl", "feather": "arrow", "ipc": "arrow"},
)

WRITERS: "Registry[type[Writer]]" = Registry(
    "writers",
    {
        "csv": "regraft.data.write:CsvWriter",
        "tsv": "regraft.data.write:TsvWriter",
        "jsonl": "regraft.data.write:JsonLinesWriter",
        "parquet": "regraft.data.write:ParquetWriter",
    },
    aliases={"json-lines": "jsonl", "ndjson": "jsonl"},
)

SAMPLES: "Registry[str | Fetched]" = Registry(
    "samples",
    {
        "spam": "regraft.data.samples.spam:PATH",
        "mnist": "regraft.data.samples.mnist:SAMPLE",
        "fashion-mnist": "regraft.data.samples.fashion_mnist:SAMPLE",
        "emoji": "regraft.data.samples.emoji:SAMPLE",
        "emoji-categories": "regraft.data.samples.emoji:CATEGORIES",
        "adult": "regraft.data.samples.widedeep:ADULT",
        "clothing-reviews": "regraft.data.samples.widedeep:REVIEWS",
        "spoken-language": "regraft.data.samples.spoken:LANGUAGE",
        "spoken-digits": "regraft.data.samples.spoken:DIGITS",
        "acsf1": "regraft.data.samples.aeon:ACSF1",
        "arrow-head": "regraft.data.samples.aeon:ARROW_HEAD",
        "basic-motions": "regraft.data.samples.aeon:BASIC_MOTIONS",
        "gun-point": "regraft.data.samples.aeon:GUN_POINT",
        "italy-power-demand": "regraft.data.samples.aeon:ITALY_POWER_DEMAND",
        "japanese-vowels": "regraft.data.samples.aeon:JAPANESE_VOWELS",
        "osu-leaf": "regraft.data.samples.aeon:OSU_LEAF",
        "pickup-gesture": "regraft.data.samples.aeon:PICKUP_GESTURE",
    },
)

__all__ = ["READERS", "SAMPLES", "WRITERS"]
