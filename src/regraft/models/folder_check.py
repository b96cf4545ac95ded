"""Every reason to refuse a Hugging Face folder, found before anything is imported or loaded; all of them together."""

from __future__ import annotations

from pathlib import Path

from regraft.errors import BaseError, Problem
from regraft.models.architectures import Architecture, architecture_of
from regraft.models.safety import check_safetensors_header, config_problems, link_problems, read_json, weight_files
from regraft.options import JSON

CONFIG_FILE = "config.json"


def check_folder(folder: Path) -> tuple[dict[str, JSON], Architecture]:
    """Check a Hugging Face folder without importing or loading anything.

    Returns:
        Its configuration, and the line of the table for it.

    Raises:
        BaseError: With every problem that was found: no configuration or weights, code, pickles, links that leave the folder,
            an adapter instead of a base, damaged headers, an unknown architecture.
    """
    config_path = folder / CONFIG_FILE
    if not config_path.is_file():
        names = sorted(path.name for path in folder.iterdir())[:10]
        fix = "give a folder saved with save_pretrained"
        got = ", ".join(names) or "an empty folder"
        raise BaseError(Problem(what="there is no config.json in the folder", where=str(folder), got=got, fix=fix))
    config = read_json(config_path)
    problems = [*link_problems(folder), *config_problems(config, str(config_path)), *_adapter_problems(folder)]
    problems += _vocabulary_problems(config, str(config_path))
    architecture = None
    for check in (lambda: architecture_of(config, str(config_path)), lambda: _check_weights(folder)):
        try:
            architecture = check() or architecture
        except BaseError as error:
            problems += error.problems
    if problems or architecture is None:
        raise BaseError(problems)
    return config, architecture


def _check_weights(folder: Path) -> None:
    for path in weight_files(folder):
        check_safetensors_header(path)


def _vocabulary_problems(config: dict[str, JSON], where: str) -> list[Problem]:
    """Every later check of tokens against weights counts with this number."""
    size = config.get("vocab_size", 1)
    if type(size) is int and size > 0:
        return []
    what, expected = "the configuration has an impossible vocabulary size", "a whole number above 0"
    fix = "fetch or save the folder again"
    return [Problem(what=what, where=where, got=f"vocab_size = {size!r}"[:200], expected=expected, fix=fix)]


def _adapter_problems(folder: Path) -> list[Problem]:
    """An adapter beside a base would be fetched and laid over it without a word."""
    path = folder / "adapter_config.json"
    if not path.exists() or not (folder / "model.safetensors").exists():
        return []
    fix = "merge the adapter into its base, or move the file away"
    return [Problem(what="an adapter lies beside the base", where=str(path), fix=fix)]
