"""The pocket's text side: a word-level tokenizer made in code, and a one-layer UMT5 encoder."""

from __future__ import annotations

from typing import Any

from musubi_ext.orbits.captions import vocabulary
from musubi_ext.pocket.config import TEXT_DIM, TEXT_TOKENS

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def build_tokenizer() -> Any:
    """Lower-cased words without punctuation, one id each; unknown words are `<unk>`; `</s>` closes the text."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate([PAD, END, UNKNOWN, *vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(",", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, words[END])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, model_max_length=TEXT_TOKENS
    )


def build_text_encoder() -> Any:
    """UMT5 encoder with fresh weights: tokens (B, L) → (B, L, 64)."""
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(vocabulary()) + 3,
            d_model=TEXT_DIM,
            d_kv=16,
            num_heads=4,
            d_ff=128,
            num_layers=1,
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=1,
            is_encoder_decoder=False,
        )
    )
