"""Flag values that are known to go together, side by side: `--preset NAME` puts a column before every other word.

A flag that is given replaces its preset; `--without FLAG` leaves one out, which is the only way to switch off what a
preset switches on (musubi-tuner's switches have no opposite). So a switch is set only where the column needs it.
The recipe is Circle-Rotate's (`Jklaity/Circle-Rotate`, its training command) but for the ranges: each expert is trained
where it runs, not over all timesteps (`--full_range` for theirs). By the estimate of `hosts/memory.py`, clips of
832×480 fit with 49 frames into 24 GB (20 GiB) and with 81 into 80 GB (62 GiB).
"""

from __future__ import annotations

from musubi_ext.errors import UserError

NAMES = ("circle-rotate-24gb", "circle-rotate-80gb", "pocket")
Value = str | int | float | bool | None  # True: a switch; None: not set, musubi-tuner's own default holds
DEFAULT: Value = None
ON: Value = True

# fmt: off
PRESETS: dict[str, tuple[Value, Value, Value]] = {
    # flag                              24 GB         80 GB         pocket
    "task":                            ("i2v-A14B",   "i2v-A14B",   "pocket-i2v"),
    # fp16 files train in fp16, bf16 files in bf16, float32 ones in either: Wan2.2's repackaged single files are fp16,
    # and with them the 80 GB column needs --mixed_precision fp16.
    "mixed_precision":                 ("fp16",       "bf16",       "no"),
    "fp8_base":                        (ON,           DEFAULT,      DEFAULT),  # 14.3 GB instead of 28.6 GB
    "blocks_to_swap":                  (30,           0,            DEFAULT),  # of 40; the rest wait in main memory
    "sdpa":                            (ON,           ON,           ON),       # torch's own attention
    "gradient_checkpointing":          (ON,           ON,           DEFAULT),
    "gradient_checkpointing_cpu_offload": (ON,        DEFAULT,      DEFAULT),  # 80 GB: add it, and fp8_base, for 720p
    "vae_cache_cpu":                   (ON,           ON,           DEFAULT),  # of sample videos
    "optimizer_type":                  ("adamw8bit",  "adamw8bit",  "adamw"),
    "learning_rate":                   (2e-4,         2e-4,         2e-3),     # small models learn at larger rates
    "network_module":                  ("networks.lora_wan",) * 3,
    "network_dim":                     (32,           32,           16),       # rank
    "network_alpha":                   (1.0,          1.0,          1.0),      # the update is scaled by alpha / rank
    "timestep_sampling":               ("shift",      "shift",      "shift"),
    "discrete_flow_shift":             (8.0,          8.0,          5.0),      # 8: 45 % of the density is above 0.9
    "max_train_epochs":                (100,          100,          DEFAULT),  # passes over the clips, each expert
    "max_train_steps":                 (DEFAULT,      DEFAULT,      500),      # updates of each expert
    "save_every_n_epochs":             (1,            1,            DEFAULT),
    "seed":                            (42,           42,           42),
}
# fmt: on
# Flags of which one takes the place of the others: upstream lets the first of each row win, whichever the user typed.
REPLACE = (
    ("max_train_epochs", "max_train_steps"),
    ("sdpa", "flash_attn", "sage_attn", "xformers", "flash3"),
)


def preset_words(name: str) -> list[str]:
    """A preset as words of a command line, "--flag=value" or "--switch". Raises UserError for an unknown name."""
    if name not in NAMES:
        raise UserError(f"--preset {name}: unknown, expected one of {', '.join(NAMES)}")
    column = NAMES.index(name)
    return [
        f"--{flag}" if row[column] is True else f"--{flag}={row[column]}"
        for flag, row in PRESETS.items()
        if row[column] is not None
    ]


def describe_presets() -> str:
    """The table for a terminal: a line per flag, a column per preset, "·" where the flag is not set."""
    rows: list[tuple[str, ...]] = [("preset", *NAMES)]
    rows += [(flag, *(_cell(value) for value in row)) for flag, row in PRESETS.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: Value) -> str:
    if value is None:
        return "·"
    return "on" if value is True else str(value)
