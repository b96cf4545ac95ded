"""Tiny random models and tokenizers of every family, made from configurations: no download."""

from __future__ import annotations

import json

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel

VOCABULARY = 300
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 64,
}
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 3, "num_heads": 4}
DECODER = {**SIZES, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_positions": 64,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DISTILBERT = {"vocab_size": VOCABULARY, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 37, "max_position_embeddings": 64}
NEOX = {**SIZES, "bos_token_id": 1, "eos_token_id": 2}
MODERN = {**SIZES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
DEBERTA2 = {
    **SIZES,
    **RELATIVE,
    "position_buckets": 8,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "conv_kernel_size": 3,
    "conv_act": "gelu",
}

FAMILIES = {
    "bert": ("BertConfig", SIZES),
    "roberta": ("RobertaConfig", SIZES),
    "xlm-roberta": ("XLMRobertaConfig", SIZES),
    "camembert": ("CamembertConfig", SIZES),
    "distilbert": ("DistilBertConfig", DISTILBERT),
    "modernbert": ("ModernBertConfig", MODERN),
    "electra": ("ElectraConfig", {**SIZES, "embedding_size": 16}),
    "deberta": ("DebertaConfig", {**SIZES, **RELATIVE}),
    "deberta-v2": ("DebertaV2Config", DEBERTA2),
    "mpnet": ("MPNetConfig", SIZES),
    "albert": ("AlbertConfig", {**SIZES, "embedding_size": 16, "num_hidden_groups": 3}),
    "t5": ("T5Config", T5),
    "mt5": ("MT5Config", T5),
    "umt5": ("UMT5Config", T5),
    "gpt2": ("GPT2Config", GPT2),
    "gpt_neox": ("GPTNeoXConfig", NEOX),
    "llama": ("LlamaConfig", DECODER),
    "mistral": ("MistralConfig", DECODER),
    "qwen2": ("Qwen2Config", DECODER),
    "qwen3": ("Qwen3Config", {**DECODER, "head_dim": 8}),
    "gemma": ("GemmaConfig", {**DECODER, "head_dim": 8}),
}
ENCODERS = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "Pack my box with five dozen liquor jugs!",
    "How vexingly quick daft zebras jump; sphinx of black quartz, judge my vow.",
    "1234567890 and some numbers 3.14159",
    "naïve café über straße",
] * 4


def tiny_model(name: str):
    """Return the hub's own random model of a family, in evaluation mode; biases and norms are not at their neutral start."""
    config_class, sizes = FAMILIES[name]
    config = getattr(transformers, config_class)(**sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, ENCODERS[name])(config) if name in ENCODERS else AutoModel.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def _specials(tokenizer, *names):
    return [(name, tokenizer.token_to_id(name)) for name in names]


def word_pieces() -> tuple[Tokenizer, dict]:
    """BERT's: word pieces between [CLS] and [SEP]."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY - 10, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=_specials(tokenizer, "[CLS]", "[SEP]"),
    )
    tokenizer.decoder = decoders.WordPiece()
    config = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return tokenizer, {"tokenizer_class": "BertTokenizer", "do_lower_case": True, **config}


def byte_pairs(kind: str) -> tuple[Tokenizer, dict]:
    """RoBERTa's (between <s> and </s>) or GPT-2's (nothing around)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if kind == "roberta" else ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 10,
        special_tokens=specials,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if kind == "roberta":
        ends = [(name, tokenizer.token_to_id(name)) for name in ("</s>", "<s>")]
        tokenizer.post_processor = processors.RobertaProcessing(*ends, add_prefix_space=False)
        names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
        return tokenizer, {"tokenizer_class": "RobertaTokenizer", "unk_token": "<unk>", "mask_token": "<mask>", **names}
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    end = "<|endoftext|>"
    return tokenizer, {"tokenizer_class": "GPT2Tokenizer", "bos_token": end, "eos_token": end, "unk_token": end}


def unigram(kind: str) -> tuple[Tokenizer, dict]:
    """XLM-RoBERTa's (between <s> and </s>) or T5's (</s> at the end)."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>"] if kind == "xlm-roberta" else ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY - 150, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if kind == "xlm-roberta":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=_specials(tokenizer, "<s>", "</s>")
        )
        names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=_specials(tokenizer, "</s>")
        )
        names = {"eos_token": "</s>"}
    return tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "unk_token": "<unk>", **names}


TOKENIZERS = {
    "bert": word_pieces,
    "roberta": lambda: byte_pairs("roberta"),
    "gpt2": lambda: byte_pairs("gpt2"),
    "xlm-roberta": lambda: unigram("xlm-roberta"),
    "t5": lambda: unigram("t5"),
}


def write_tokenizer(folder, kind: str = "bert") -> None:
    """Write a family's tokenizer as the hub does."""
    tokenizer, config = TOKENIZERS[kind]()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 64}))


def write_folder(folder, name: str = "bert", tokenizer: str = "bert"):
    """Write a whole Hugging Face folder of a family and return its model."""
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_model(name)
    model.save_pretrained(folder)
    write_tokenizer(folder, tokenizer)
    return model
