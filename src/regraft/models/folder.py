"""A base that is a Hugging Face folder on this machine, whatever brought it there."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.errors import BaseError, OptionsError, Problem
from regraft.modalities.audio import Audio, AudioOptions, read_preprocessor
from regraft.modalities.image import PROCESSOR_FILE, Image, ImageOptions, read_processor
from regraft.modalities.series import Series, SeriesOptions, State
from regraft.modalities.text import TOKENIZER_FILE, Text, read_companions, read_tokenizer
from regraft.modalities.voice_activity import VoiceActivity
from regraft.models.architectures import ARCHITECTURES, position_limit
from regraft.models.base import Base
from regraft.models.choices import limited, trained_pooling
from regraft.models.fetch import Package, fetch, sha256_of
from regraft.models.safety import read_json, weight_files
from regraft.models.vocabulary import learn_unknown
from regraft.options import JSON, build

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from regraft.modalities.modality import Modality
    from regraft.models.backbones import Backbone

# fmt: off
SILERO = Package(name="silero-vad", package="silero-vad", version="6.2.3", sha256="7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8", subfolder="silero_vad/data", modality="audio", licence="MIT", parameters=309_633, size_bytes=1_239_748, what="where somebody speaks", origin="snakers4/silero-vad", files=("silero_vad_16k.safetensors",))  # noqa: E501
# fmt: on
VOICE_WEIGHTS = "silero_vad_16k.safetensors"
_TOKENIZER_SOURCES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model", "vocab.txt", "vocab.json")


class FolderBase(Base):
    """Open a folder of the hub: tokenizer, network, pooling. Options have a field `pooling`."""

    @abstractmethod
    def folder(self) -> Path:
        """Return the folder, on this machine."""

    @property
    def reads(self) -> str:
        """Registered name of the modality that the folder's architecture takes."""
        return ARCHITECTURES[read_json(self.folder() / "config.json")["model_type"]].reads

    def modality(self, options: Mapping[str, JSON], raws: Callable[[], Iterator[Sequence[Any]]]) -> Modality:
        """Return the preprocessing that the base was trained with; the training rows are not looked at."""
        folder = self.folder()
        config = read_json(folder / "config.json")
        architecture = ARCHITECTURES[config["model_type"]]
        if architecture.reads in _PROCESSORS:
            return _PROCESSORS[architecture.reads](folder, config, options)
        files = read_companions(folder)
        checked = limited(options, {}, position_limit(config, architecture), self.name)
        tokenizer = learn_unknown(folder_tokenizer(folder), raws) if checked.new_words else folder_tokenizer(folder)
        pad_id = _pad_id(tokenizer, files, config)
        text = Text(tokenizer, checked, inputs=architecture.inputs, pad_id=pad_id, files=files, copy=False)
        if not checked.new_words and text.largest_id >= int(config.get("vocab_size", text.largest_id + 1)):
            raise BaseError(
                Problem(
                    what="the tokenizer and the weights do not belong together",
                    where=str(folder),
                    got=f"a tokenizer with tokens up to number {text.largest_id}",
                    expected=f"at most {config['vocab_size'] - 1}",
                    fix="fetch or save the whole folder again",
                )
            )
        return text

    def backbone(self, modality: Modality, seed: int) -> Backbone:
        """Return the network with the base's weights; only a pooling may have new ones, drawn from the seed."""
        from regraft.models.backbones import Backbone, PoolingChoice, open_body

        folder = self.folder()
        body = open_body(folder)
        name, reason = trained_pooling(folder, read_json(folder / "config.json"), body.architecture)
        if self.options.pooling is not None:
            name, reason = self.options.pooling, "chosen by option"
        self._notes = tuple(body.notes)
        if isinstance(modality, Text) and modality.options.new_words:
            self._notes += _taken_in(body.model, modality.largest_id + 1, seed)
        window = getattr(modality, "window", None)
        if window is not None:
            body.model.config.window_positions = window
        return Backbone(body, PoolingChoice(name, reason, seed))

    def found(self) -> dict[str, JSON]:
        """Return what was found in the folder: digests of configuration, weights and tokenizer, and notes."""
        folder = self.folder()
        paths = [folder / "config.json", *weight_files(folder)]
        paths += [path for path in (folder / TOKENIZER_FILE, folder / PROCESSOR_FILE) if path.is_file()]
        return {
            "files": {path.name: sha256_of(path) for path in paths},
            "notes": list(getattr(self, "_notes", ())),
        }


def _taken_in(model: Any, tokens: int, seed: int) -> tuple[str, ...]:
    """Give a network vectors for tokens that its base did not have, around the mean of those it has; say how many."""
    import torch

    table = model.get_input_embeddings().weight
    known, spread = len(table), float(getattr(model.config, "initializer_range", 0.02))
    if tokens <= known:
        return ()
    mean_D, generator = table.detach().mean(dim=0), torch.Generator().manual_seed(seed)
    drawn_MD = mean_D + spread * torch.randn(tokens - known, len(mean_D), generator=generator)
    model.resize_token_embeddings(tokens, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[known:] = drawn_MD
    return (f"{tokens - known:,} words of the training rows that the base did not know have vectors of their own, untrained",)


def _image(folder: Path, config: Mapping[str, JSON], options: Mapping[str, JSON]) -> Modality:
    """Return how pictures are prepared, as the folder's processor file says it."""
    wanted = build(ImageOptions, options, owner=Image.name)
    made = Image(read_processor(folder), wanted, channels=int(config.get("num_channels", 3)))
    side = config.get("image_size")
    fixed = None if side is None else tuple(side) if isinstance(side, list) else (side, side)
    if config.get("num_channels", made.channels) != made.channels:
        got, expected = f"{made.channels} channels", f"{config['num_channels']} channels"
        fix = f"leave out modality.channels: '{config.get('model_type')}' takes {expected}"
        raise OptionsError(Problem(what="the base takes pictures of other channels", got=got, expected=expected, fix=fix))
    if fixed is not None and _FIXED & config.keys() and fixed != (made.steps.height, made.steps.width):
        got, expected = f"{made.steps.height} x {made.steps.width} pixels", f"{fixed[0]} x {fixed[1]}"
        fix = f"set modality.size to {fixed[0]}, or leave it out"
        raise OptionsError(Problem(what="the base takes pictures of one size", got=got, expected=expected, fix=fix))
    return made


def _audio(folder: Path, config: Mapping[str, JSON], options: Mapping[str, JSON]) -> Modality:
    """Return how recordings are prepared, as the folder's processor file says it."""
    wanted = build(AudioOptions, options, owner=Audio.name)
    voice = VoiceActivity.load(fetch(SILERO) / VOICE_WEIGHTS) if wanted.keep == "speech" else None
    made = Audio(wanted, read_preprocessor(folder), voice)
    bins, places = config.get("num_mel_bins", made.width), config.get("max_source_positions")
    if bins != made.width:
        got, fix = f"{made.width} mel bins", "fetch or save the whole folder again"
        raise BaseError(
            Problem(what="the preprocessing and the weights do not belong together", got=got, expected=f"{bins}", fix=fix)
        )
    if places is not None and made.window is not None and made.window > 2 * places:
        most = 2 * places * made.front.hop // made.front.rate
        got, fix = f"chunk_s = {wanted.chunk_s}", f"set modality.chunk_s to at most {most}, or leave it out"
        raise OptionsError(Problem(what="the base takes no longer chunks", got=got, expected=f"at most {most} s", fix=fix))
    return made


def _series(folder: Path, config: Mapping[str, JSON], options: Mapping[str, JSON]) -> Modality:
    """Return how series are prepared for windows of the folder's own length; its network scales them itself."""
    wanted = build(SeriesOptions, {"scaling": "none", "truncation_side": "left", **options}, owner=Series.name)
    from regraft.models.backbones import make_config

    whole = make_config(config, str(folder / "config.json"))  # what the hub leaves out of the file has its value there
    window, channels = int(whole.context_length), int(whole.num_input_channels)
    bad = {"mask": wanted.mask is False, "scaling": wanted.scaling == "train"}
    problems = [
        Problem(
            what=f"the base cannot be used with this option of series: {name}", where=f"modality.{name}", fix="leave it out"
        )
        for name, is_bad in bad.items()
        if is_bad
    ]
    if problems:
        raise OptionsError(problems)
    return Series(wanted, State(channels=channels, mask=True), window=window)


_PROCESSORS = {Image.name: _image, Audio.name: _audio, Series.name: _series}
_FIXED = {"patch_size"}  # positions of patches were learnt for one size


def folder_tokenizer(folder: Path) -> Tokenizer:
    """Return a folder's fast tokenizer; a slow one is converted by the hub's own code, never by code of the folder.

    Raises:
        BaseError: There is no tokenizer, or it cannot be converted.
    """
    if (folder / TOKENIZER_FILE).is_file():
        return read_tokenizer(folder)
    if not any((folder / name).is_file() for name in _TOKENIZER_SOURCES):
        fix = "save the tokenizer into the same folder: AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)"
        expected = f"{TOKENIZER_FILE}, or one of {', '.join(_TOKENIZER_SOURCES)}"
        raise BaseError(Problem(what="the folder has no tokenizer", where=str(folder), expected=expected, fix=fix))
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        return Tokenizer.from_str(found.backend_tokenizer.to_str())
    except Exception as error:  # converters raise whatever their format's reader raises
        what = "the tokenizer cannot be converted to the fast form"
        fix = "save it as tokenizer.json where its own library is installed"
        raise BaseError(Problem(what=what, where=str(folder), got=str(error)[:300], fix=fix)) from error


def _pad_id(tokenizer: Tokenizer, files: Mapping[str, JSON], config: Mapping[str, JSON]) -> int:
    """Return the token that fills a batch: the tokenizer's own, else the configuration's, else 0; it is never attended to."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = files.get(name, {}).get("pad_token")
        token = token.get("content") if isinstance(token, Mapping) else token
        found = tokenizer.token_to_id(token) if isinstance(token, str) else None
        if found is not None:
            return int(found)
    said = config.get("pad_token_id")
    return said if isinstance(said, int) and 0 <= said < int(config.get("vocab_size", said + 1)) else 0
