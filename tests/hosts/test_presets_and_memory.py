"""Presets as the first words of a command, who wins over them, and the estimate of what they need."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from musubi_ext.adapters.tensors import read_header
from musubi_ext.errors import Problems, UserError
from musubi_ext.hosts.arguments import build_parser, parse
from musubi_ext.hosts.memory import GIB, DitShape, Memory, estimate
from musubi_ext.hosts.own_flags import choose_host, gather_words
from musubi_ext.hosts.presets import NAMES, PRESETS, describe_presets, preset_words
from musubi_ext.pocket.upstream import export_experts

Arguments = Callable[..., list[str]]
A14B = DitShape(dim=5120, ffn_dim=13824, num_layers=40)
LANDSCAPE = (21, 60, 104)  # latents of 81 frames of 832×480


def flags_of(name: str, **changes: object) -> Namespace:
    """A preset's values as arguments."""
    column = NAMES.index(name)
    values: dict[str, object] = {flag: row[column] for flag, row in PRESETS.items()}
    return Namespace(**{**values, **changes})


def gathered(*words: str) -> list[str]:
    problems = Problems()
    found = gather_words(words, build_parser().flags, problems)
    problems.raise_if_any()
    return found


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        (tmp_path / "run.toml").write_text(text)
        return str(tmp_path / "run.toml")

    return write


# presets


RECIPE = """
--task=i2v-A14B --fp8_base --sdpa --mixed_precision=fp16 --optimizer_type=adamw8bit --learning_rate=0.0002
--gradient_checkpointing --gradient_checkpointing_cpu_offload --network_module=networks.lora_wan --network_dim=32
--timestep_sampling=shift --discrete_flow_shift=8.0 --max_train_epochs=100 --save_every_n_epochs=1 --seed=42
--blocks_to_swap=30 --vae_cache_cpu
"""


def test_the_recipe_is_circle_rotate_s() -> None:
    words = preset_words("circle-rotate-24gb")
    assert set(words) - set(RECIPE.split()) == {"--network_alpha=1.0"}  # musubi-tuner's default, written out
    assert set(RECIPE.split()) <= set(words)


def test_the_pocket_column_is_what_the_pocket_host_does_anyway() -> None:
    args = build_parser().parse_args(preset_words("pocket"))
    switches = {"sdpa"}  # on in any case there
    for flag, row in PRESETS.items():
        if row[2] is not None and flag not in switches:
            assert getattr(args, flag) == build_parser().get_default(flag), flag


def test_an_unknown_preset() -> None:
    with pytest.raises(UserError, match="circle-rotate-24gb, circle-rotate-80gb, pocket"):
        preset_words("a100")


def test_the_table_has_a_line_per_flag() -> None:
    first, *lines = describe_presets().splitlines()
    assert first.split() == ["preset", *NAMES]
    assert [line.split()[0] for line in lines] == list(PRESETS)


# who wins


def test_later_words_win(argv: Arguments, config: Callable[[str], str]) -> None:
    path = config("learning_rate = 1e-3\nnetwork_alpha = 2.0\n")
    args = parse([*argv("--preset", "pocket", "--config_file", path, "--learning_rate", "0.5")])
    assert (args.learning_rate, args.network_alpha, args.discrete_flow_shift) == (0.5, 2.0, 5.0)
    assert args.network_dim == 4  # argv's, not the preset's 16


def test_a_preset_may_be_named_in_the_config_file(config: Callable[[str], str]) -> None:
    path = config('preset = "circle-rotate-24gb"\nwithout = ["vae_cache_cpu"]\n')
    assert "--fp8_base" in gathered("--config_file", path)
    assert "--vae_cache_cpu" not in gathered("--config_file", path)
    assert "--fp8_base" not in gathered("--config_file", path, "--preset", "pocket")


@pytest.mark.parametrize("name", ["sdpa", "max_train_steps"])
def test_without_leaves_out_switches_and_values(name: str) -> None:
    words = gathered("--preset", "pocket", "--without", name)
    assert not any(word.partition("=")[0] == f"--{name}" for word in words)


def test_without_also_leaves_out_what_the_config_file_sets(config: Callable[[str], str]) -> None:
    path = config("gradient_checkpointing = true\nseed = 1\n")
    words = gathered("--config_file", path, "--without", "gradient_checkpointing")
    assert "--gradient_checkpointing" not in words
    assert "--seed=1" in words


def test_false_in_the_config_file_switches_off_what_the_preset_switches_on(config: Callable[[str], str]) -> None:
    words = gathered("--preset", "circle-rotate-24gb", "--config_file", config("fp8_base = false\n"))
    assert "--fp8_base" not in words
    assert "--vae_cache_cpu" in words


def test_another_length_or_attention_takes_the_place_of_the_preset_s() -> None:
    words = gathered("--preset", "circle-rotate-24gb", "--max_train_steps", "50", "--flash_attn")
    assert not any(word.startswith("--max_train_epochs") for word in words)
    assert "--sdpa" not in words


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--without sdpaa", "did you mean --sdpa?"),
        ("--sdpa --without sdpa", "--sdpa is given as well"),
        ("--without", "expected at least one argument"),
        ("--preset", "expected one argument"),
        ("--config_file nowhere", "found nothing"),
    ],
)
def test_mistakes_with_sources(words: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence.replace("?", r"\?")):
        gathered(*words.split())


def test_a_table_inside_a_table_of_the_config_file(config: Callable[[str], str]) -> None:
    with pytest.raises(UserError, match="found a table inside a table"):
        gathered("--config_file", config("[a.seed]\nb = 1\n"))


def test_a_value_that_looks_like_a_flag_stays_a_value(argv: Arguments, config: Callable[[str], str]) -> None:
    assert parse(argv("--config_file", config('training_comment = "--seed 3"\n'))).training_comment == "--seed 3"


@pytest.mark.parametrize(
    ("words", "host"),
    [
        ("", "pocket"),
        ("--task pocket-i2v", "pocket"),
        ("--task pocket-i2v --host musubi", "musubi"),
        ("--task=i2v-A14B", "musubi"),
        ("--preset circle-rotate-80gb", "musubi"),
        ("--preset circle-rotate-80gb --task pocket-i2v", "pocket"),
        ("--extension off", "musubi"),
    ],
)
def test_the_task_chooses_the_host(words: str, host: str) -> None:
    assert choose_host(words.split()) == host


@pytest.mark.parametrize("words", ["--task i2v-A14B", "--preset circle-rotate-24gb", "--extension off"])
def test_the_pocket_host_trains_its_own_task_only(words: str) -> None:
    with pytest.raises(UserError, match="--host pocket"):
        choose_host(["--host", "pocket", *words.split()])


@pytest.mark.parametrize(
    "words", ["--early_stop_patience 0", "--validate_every_n_steps -1", "--validate_every_n_steps x"]
)
def test_counts_have_a_least(argv: Arguments, words: str) -> None:
    with pytest.raises(UserError, match="expected a whole number of at least"):
        parse(argv(*words.split()))


# memory


def test_known_numbers_of_parameters() -> None:
    assert A14B.lora_parameters(32) == 153_354_240
    assert DitShape(5120, 13824, 40, in_dim=16).parameters == 14_288_491_584  # Wan 14B, text-to-video


def test_parameters_of_a_real_file(tiny_pipeline: Path, tmp_path: Path) -> None:
    for path in export_experts(tiny_pipeline, tmp_path).values():
        shapes = {key: entry["shape"] for key, entry in read_header(path).items() if key != "__metadata__"}
        layers = sum(key.endswith("ffn.0.weight") for key in shapes)
        ffn, dim = shapes["blocks.0.ffn.0.weight"]
        freq = shapes["time_embedding.0.weight"][1]
        count = 0
        for shape in shapes.values():
            size = 1
            for side in shape:
                size *= side
            count += size
        assert DitShape(dim, ffn, layers, freq_dim=freq).parameters == count


def needed(**changes: object) -> Memory:
    return estimate(A14B, LANDSCAPE, flags_of("circle-rotate-24gb", **changes))


def test_the_parts_of_an_adapter() -> None:
    found = needed()
    assert found.adapter == found.gradients == 4 * 153_354_240
    assert found.optimizer is not None
    assert 2 * 153_354_240 < found.optimizer < 2.1 * 153_354_240
    assert needed(optimizer_type="torch.optim.AdamW").optimizer == 8 * 153_354_240


def test_an_unknown_optimizer_is_unavailable_and_not_zero() -> None:
    found = needed(optimizer_type="prodigyopt.Prodigy")
    assert found.optimizer is None
    assert "at least" in found.lines()[0]
    assert "optimizer unavailable" in found.lines()[0]


def test_swapped_blocks_are_in_main_memory() -> None:
    away = 30 * A14B.block_linears
    whole, swapped = needed(blocks_to_swap=0), needed()
    assert whole.weights - swapped.weights == away
    assert (whole.host_weights, swapped.host_weights) == (0, away + 2 * A14B.block_linears)
    assert (whole.host_loading, swapped.loading) == (0, 0)  # read where it will be
    assert whole.loading == swapped.host_loading == 2 * A14B.parameters


def test_weights_by_precision() -> None:
    in_16, in_8, scaled = (
        needed(blocks_to_swap=0, **flags).weights for flags in ({"fp8_base": None}, {}, {"fp8_scaled": True})
    )
    assert in_16 == 2 * A14B.parameters
    assert in_8 == A14B.parameters
    assert in_8 < scaled < 1.02 * in_8  # embeddings and norms are not scaled
    assert needed(fp8_base=None).casts < needed().casts  # fp8 is cast to compute


def test_checkpointing_and_offload_of_activations() -> None:
    inputs = 40 * 21 * 30 * 52 * 5120 * 2  # one of each block, 16 bits
    offloaded, kept = needed(), needed(gradient_checkpointing_cpu_offload=None)
    everything = needed(gradient_checkpointing=None)
    assert offloaded.host_activations == inputs
    assert kept.activations - offloaded.activations == inputs * 38 / 40
    assert everything.activations > 10 * kept.activations
    assert kept.host_activations == everything.host_activations == 0


def test_activations_are_linear_in_tokens_and_batch() -> None:
    once = needed().activations
    args = flags_of("circle-rotate-24gb")
    assert (
        estimate(A14B, (42, 60, 104), args).activations
        == estimate(A14B, LANDSCAPE, args, batch=2).activations
        == 2 * once
    )


def test_presets_fit_the_cards_they_are_named_after() -> None:
    assert estimate(A14B, (13, 60, 104), flags_of("circle-rotate-24gb")).device < 22 * GIB
    assert estimate(A14B, LANDSCAPE, flags_of("circle-rotate-80gb"), file_type="bf16").device < 66 * GIB
    larger = flags_of("circle-rotate-80gb", fp8_base=True, gradient_checkpointing_cpu_offload=True)
    assert estimate(A14B, (21, 90, 160), larger, file_type="bf16").device < 70 * GIB  # 1280×720


def test_the_estimate_calls_itself_one() -> None:
    device, main = needed().lines()
    assert "estimated" in device
    assert "estimated" in main
    assert needed().device == needed().step  # training, not loading, is the peak
