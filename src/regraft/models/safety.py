"""What is refused before any of it is loaded: code, pickles, links that leave a folder, headers made to exhaust memory.

Every limit has a case behind it: weights as pickles run code when read (CVE-2025-32434), a configuration alone can fetch and
run code (CVE-2026-4372), links and relative paths read other files (CVE-2022-25882), a header of gigabytes stops a server.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from regraft.errors import BaseError, Problem, RegraftError
from regraft.options import JSON

HEADER_LIMIT_BYTES = 16 * 2**20
HEADER_LIMIT_ENTRIES = 50_000
JSON_LIMIT_BYTES = 64 * 2**20
PICKLES = frozenset(
    {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".keras", ".joblib", ".npy", ".npz", ".msgpack", ".dill", ".pb"}
)
"""Formats that hold a pickle, run code when read, or cannot be checked."""
_ATTENTION = frozenset(
    {None, "", "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "paged_attention"}
)
_CODE_KEYS = {
    "auto_map": "it names code that would be run",
    "custom_pipelines": "it names code that would be run",
    "trust_remote_code": "it asks for code to be run",
    "kernel_config": "it names kernels that would be fetched and run",
    "use_kernels": "it asks for kernels that would be fetched and run",
    "base_model_name_or_path": "it points to another model that would be fetched",
    "quantization_config": "quantised weights need packages of their own",
}
_ATTENTION_KEYS = frozenset({"_attn_implementation", "attn_implementation", "_attn_implementation_internal"})
_EXPERT_KEYS = frozenset({"_experts_implementation", "experts_implementation", "_experts_implementation_internal"})
_DTYPE_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
}


@dataclass(frozen=True)
class TensorEntry:
    """One tensor as a safetensors header describes it.

    Args:
        dtype: As the format spells it ("F32").
        shape: Sizes.
        size_bytes: Bytes in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


def check_safetensors_header(path: Path, error: type[RegraftError] = BaseError) -> dict[str, TensorEntry]:
    """Read and check the header of a safetensors file; no tensor is read.

    The format: 8 bytes of length (little endian), a JSON header of that length, then the tensors without gaps or overlaps
    (https://github.com/huggingface/safetensors#format).

    Args:
        path: The file.
        error: Class of the error to raise.

    Returns:
        Tensor name -> what it is.

    Raises:
        RegraftError: Of class `error`: not this format, truncated, longer than 16 MB or more than 50,000 tensors.
    """

    def refuse(what: str, got: str, expected: str) -> RegraftError:
        return error(Problem(what=what, where=str(path), got=got, expected=expected, fix="get the file again from its source"))

    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length == 0 or (8 + length > size and length <= HEADER_LIMIT_BYTES):
            got = f"{size} bytes" + (f", a header of {length} bytes" if len(start) == 8 else "")
            raise refuse("a weights file is truncated or not safetensors", got, "a whole safetensors file")
        if length > HEADER_LIMIT_BYTES:
            limit = f"at most {HEADER_LIMIT_BYTES} bytes"
            raise refuse("the header of a weights file is too large, or it is not safetensors", f"{length} bytes", limit)
        raw = file.read(length)
    try:
        header = json.loads(raw)
        entries = _entries(header)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
        raise refuse("the header of a weights file cannot be read", str(problem)[:200], "a safetensors header") from None
    if len(entries) > HEADER_LIMIT_ENTRIES:
        raise refuse("a weights file has too many tensors", str(len(entries)), f"at most {HEADER_LIMIT_ENTRIES}")
    stored = sum(entry.size_bytes for entry in entries.values())
    if stored != size - 8 - length:
        raise refuse("a weights file is truncated", f"{size - 8 - length} bytes of tensors", f"{stored} bytes")
    return entries


def _entries(header: Mapping[str, JSON]) -> dict[str, TensorEntry]:
    found: dict[str, TensorEntry] = {}
    places: list[tuple[int, int, str]] = []
    for name, value in header.items():
        if name == "__metadata__":
            continue
        shape = tuple(int(side) for side in value["shape"])
        begin, end = value["data_offsets"]
        bits = _DTYPE_BITS[value["dtype"]]
        for side in shape:
            bits *= side
        if any(side < 0 for side in shape) or bits % 8 or end - begin != bits // 8:
            raise ValueError(f"'{name}' has {end - begin} bytes for shape {list(shape)} of {value['dtype']}")
        places.append((begin, end, name))
        found[name] = TensorEntry(value["dtype"], shape, end - begin)
    reached = 0
    for begin, end, name in sorted(places):
        if begin != reached:
            raise ValueError(f"'{name}' begins at {begin}, not at {reached}")
        reached = end
    return found


def read_json(path: Path, error: type[RegraftError] = BaseError) -> dict[str, JSON]:
    """Return a JSON object from a file of bounded size.

    Raises:
        RegraftError: Of class `error`: too large, not JSON, or not an object.
    """
    size = path.stat().st_size
    fix = "get the file again from its source"
    if size > JSON_LIMIT_BYTES:
        limit = f"at most {JSON_LIMIT_BYTES} bytes"
        raise error(Problem(what="a JSON file is too large", where=str(path), got=f"{size} bytes", expected=limit, fix=fix))
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as problem:
        raise error(Problem(what="a file is not JSON", where=str(path), got=str(problem)[:200], fix=fix)) from None
    if not isinstance(content, dict):
        got = type(content).__name__
        raise error(Problem(what="a file is not a JSON object", where=str(path), got=got, expected="{...}", fix=fix))
    return content


def config_problems(config: Mapping[str, JSON], where: str) -> list[Problem]:
    """Return why a model's configuration is not safe to load, nested parts included.

    Args:
        config: Content of config.json.
        where: What to call it in messages.
    """
    problems = []
    for path, key, value in _walk(config, ""):
        if key in _CODE_KEYS and value not in (None, False, {}, [], ""):
            problems.append(
                Problem(
                    what=f"the configuration has '{path}': {_CODE_KEYS[key]}",
                    where=where,
                    got=str(value)[:200],
                    fix=_CONFIG_FIXES.get(key, "use a base that needs no code of its own, or save it again without this key"),
                )
            )
        known = _ATTENTION if key in _ATTENTION_KEYS else frozenset({None, "", "eager", "grouped_mm", "batched_mm"})
        if key in _ATTENTION_KEYS | _EXPERT_KEYS and not (value is None or (isinstance(value, str) and value in known)):
            problems.append(
                Problem(
                    what=f"the configuration has '{path}' with an implementation that would be fetched and run",
                    where=where,
                    got=str(value)[:200],
                    expected="one of " + ", ".join(f"'{name}'" for name in sorted(filter(None, known))),
                    fix="remove the key from the configuration",
                )
            )
    return problems


_CONFIG_FIXES = {
    "quantization_config": "use the model as it was before it was quantised",
    "base_model_name_or_path": "merge the adapter into its base and use the merged folder",
}


def _walk(value: JSON, prefix: str, depth: int = 0) -> Iterator[tuple[str, str, JSON]]:
    if depth > 20:
        return
    items: Iterable[tuple[object, JSON]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        path = f"{prefix}{key}"
        yield path, str(key), item
        yield from _walk(item, f"{path}.", depth + 1)


def link_problems(folder: Path) -> list[Problem]:
    """Return the links that leave a folder, and its special files.

    A snapshot in the hub's own cache consists of links into the cache of the same repository; these are fine.

    Args:
        folder: The base's folder.
    """
    root = allowed_root(folder)
    problems = []
    for place, folders, names in os.walk(folder, followlinks=False):
        for name in sorted([*folders, *names]):
            path = Path(place) / name
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                target = path.resolve()
                if not target.is_relative_to(root):
                    fix = "copy the file into the folder if you trust it"
                    problems.append(
                        Problem(what="a link leaves the folder", where=str(path), got=f"a link to {target}", fix=fix)
                    )
            elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                problems.append(
                    Problem(what="there is a special file", where=str(path), expected="regular files", fix="remove it")
                )
    return problems


def allowed_root(folder: Path) -> Path:
    """Return the folder that links may lead to: the base's own, or its repository's cache where the hub's client keeps it."""
    real = folder.resolve()
    cache = real.parent.parent
    if real.parent.name == "snapshots" and (cache / "blobs").is_dir():
        return cache
    return real


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that make up the base in a folder: one, or the shards of an index.

    Raises:
        BaseError: There are none (said why: only pickles, an adapter only, nothing at all), or a shard is missing.
    """
    one = folder / "model.safetensors"
    if one.is_file():
        return [one]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = read_json(index).get("weight_map")
        listed = list(names.values()) if isinstance(names, dict) else []
        wrong = [shard for shard in listed if not isinstance(shard, str) or Path(shard).name != shard]
        shards = sorted({shard for shard in listed if isinstance(shard, str)})
        missing = [shard for shard in shards if shard not in wrong and not (folder / shard).is_file()]
        if not shards or wrong or missing:
            got = ", ".join(map(str, (wrong or missing)[:5])) or "an empty index"
            what = "shards of the weights have wrong names" if wrong else "shards of the weights are missing"
            raise BaseError(Problem(what=what, where=str(index), got=got, fix="fetch the whole folder again"))
        return [folder / shard for shard in shards]
    raise BaseError(_no_weights(folder))


def _no_weights(folder: Path) -> Problem:
    names = sorted(path.name for path in folder.iterdir())
    pickles = [name for name in names if Path(name).suffix.lower() in PICKLES]
    if (folder / "adapter_config.json").is_file():
        fix = "merge the adapter into its base and save the whole model"
        return Problem(what="the folder holds an adapter, not a base", where=str(folder), got="adapter_config.json", fix=fix)
    if pickles:
        return Problem(
            what="the weights are pickles, which can run code when they are read",
            where=str(folder),
            got=", ".join(pickles[:5]),
            expected="model.safetensors",
            fix="convert to safetensors on a machine where you trust the file: "
            "AutoModel.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)",
        )
    listed = ", ".join(names[:10]) or "an empty folder"
    fix = "give a folder saved with save_pretrained, or fetch it again"
    return Problem(
        what="there are no weights in the folder", where=str(folder), got=listed, expected="model.safetensors", fix=fix
    )
