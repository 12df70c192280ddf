"""Upstream's text encoder file (models_t5_umt5-xxl-enc-bf16.pth) as transformers' UMT5EncoderModel; its tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musubi_ext.errors import UserError
from musubi_ext.orbits.cache.wan_vae import expect_shapes, read_weights

NAMES = (  # musubi-tuner's `wan/modules/t5.py` → transformers' `modeling_umt5.py`
    (r"^token_embedding\.", "shared."),
    (r"^norm\.", "encoder.final_layer_norm."),
    (r"^blocks\.(\d+)\.norm1\.", r"encoder.block.\1.layer.0.layer_norm."),
    (r"^blocks\.(\d+)\.attn\.", r"encoder.block.\1.layer.0.SelfAttention."),
    (
        r"^blocks\.(\d+)\.pos_embedding\.embedding\.",
        r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.",
    ),
    (r"^blocks\.(\d+)\.norm2\.", r"encoder.block.\1.layer.1.layer_norm."),
    (r"^blocks\.(\d+)\.ffn\.gate\.0\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_0."),
    (r"^blocks\.(\d+)\.ffn\.fc1\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_1."),
    (r"^blocks\.(\d+)\.ffn\.fc2\.", r"encoder.block.\1.layer.1.DenseReluDense.wo."),
)
NEEDED = {
    "shared.weight",
    *("encoder.block.0.layer." + name for name in ("0.SelfAttention.q.weight", "1.DenseReluDense.wi_0.weight")),
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
}
TOKENIZER_FILE = "tokenizer_config.json"
TOKENIZER = "google/umt5-xxl"  # umt5-xxl's own, which Wan ships unchanged; its vocabulary is part of `text_id`


def load_text_encoder(path: Path, *, dtype: torch.dtype = torch.bfloat16) -> Any:
    """A UMT5EncoderModel on the CPU; umt5-xxl's configuration with the widths the file has. Raises UserError."""
    loaded = read_weights(path)
    weights = {_renamed(name): tensor for name, tensor in loaded.items()}
    if not weights.keys() >= NEEDED:
        found = ", ".join(sorted(loaded)[:3]) or "no tensor"
        fix = "use models_t5_umt5-xxl-enc-bf16.pth"
        raise UserError(f"{path}: expected UMT5's encoder, found no such tensors but {found} ({fix})")
    weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
    from transformers import UMT5EncoderModel

    with torch.device("meta"):
        model = UMT5EncoderModel(_configuration(weights))
    weights["encoder.embed_tokens.weight"] = weights["shared.weight"]  # transformers ties the two
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    compared = {name: tensor for name, tensor in weights.items() if name in expected or "embed" not in name}
    expect_shapes(path, "UMT5's encoder", expected, compared)
    model.load_state_dict(weights, assign=True, strict=False)
    model.tie_weights()
    return model


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer's folder; `revision` is its commit where it lies in the Hugging Face cache, else ""."""

    folder: Path
    revision: str = ""

    @property
    def metadata(self) -> dict[str, str]:
        """What text caches say of it."""
        return {"tokenizer": f"{TOKENIZER}@{self.revision}"} if self.revision else {}


def find_tokenizer(folder: Path | None) -> TokenizerFiles:
    """The tokenizer of a local folder, or google/umt5-xxl of the Hugging Face cache. Fetches nothing. Raises UserError.

    Which commit of google/umt5-xxl Wan was trained with is published nowhere, so none is pinned here: the one that
    refs/main of the local cache names is used, by its hash, and text caches carry that hash. Its vocabulary is part of
    `text_id`, so that a commit that changes it makes them stale.
    """
    from huggingface_hub import try_to_load_from_cache

    if folder is not None:
        if not (folder / TOKENIZER_FILE).is_file():
            raise UserError(f"--tokenizer {folder}: expected a tokenizer's folder, found no {TOKENIZER_FILE} there")
        return TokenizerFiles(folder)
    found = try_to_load_from_cache(TOKENIZER, TOKENIZER_FILE)
    if not isinstance(found, str):
        where = f"--tokenizer: {TOKENIZER} is not in the Hugging Face cache"
        raise UserError(f"{where} (fetch it there: hf download {TOKENIZER}, or give a local folder that holds it)")
    return TokenizerFiles(Path(found).parent, Path(found).parent.name)


def load_tokenizer(files: TokenizerFiles) -> Any:
    """The tokenizer itself, from the folder of its commit where it lies in the Hugging Face cache. Raises UserError."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(files.folder, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--tokenizer {files.folder}: expected a tokenizer, found: {reason} (fetch it anew)") from error


def _renamed(name: str) -> str:
    name = name.removeprefix("encoder.") if name.startswith("encoder.") else name
    for pattern, new in NAMES:
        name = re.sub(pattern, new, name)
    return name


def _configuration(weights: Mapping[str, Tensor]) -> Any:
    """umt5-xxl: 24 layers, 4096 wide, 64 heads, ffn 10240, vocabulary 256384; all but the constants read off."""
    from transformers import UMT5Config

    prefix = "encoder.block.0.layer."
    buckets, heads = weights[prefix + "0.SelfAttention.relative_attention_bias.weight"].shape
    vocabulary, width = weights["shared.weight"].shape
    inner = weights[prefix + "0.SelfAttention.q.weight"].shape[0]
    return UMT5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=inner // heads,
        d_ff=weights[prefix + "1.DenseReluDense.wi_0.weight"].shape[0],
        num_layers=1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.block.")),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        relative_attention_max_distance=128,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
