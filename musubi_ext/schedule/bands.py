"""Frequency bands of a latent error (B, C, F, H, W): where in space and time a denoiser is wrong, and a loss that says
what matters.

Three radial bands of spatial frequency, r = √((h/H)² + (w/W)²) in units of Nyquist, by two of temporal frequency f/F.
Coefficients are those of the orthonormal DCT-II, so by Parseval the bands' energies add up to the mean square of the
error. The DCT mirrors at the edges where a Fourier transform wraps around: of the energy of a ramp across 60×104 cells
the Fourier transform puts 1.1% into space_high, the DCT under 0.001%; errors of a denoiser are mostly that smooth.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from musubi_ext.errors import Problems

SPACE = ("space_low", "space_mid", "space_high")
SPACE_CUTS = (1 / 3, 2 / 3)  # of Nyquist: wavelengths over 6, 6 to 3, under 3 latent cells
TIME = ("time_low", "time_high")
TIME_CUT = 1 / 3  # of Nyquist; at 16 fps and 4 frames per latent frame, ⅔ of a cycle per second
WEIGHTS = (1e-3, 1e3)  # least and greatest weight of --band_emphasis

Size = tuple[int, int, int]  # F, H, W


def band_names() -> tuple[str, ...]:
    """The six bands in the order of `band_energies`: "space_low/time_low", "space_low/time_high", …"""
    return tuple(f"{space}/{time}" for space in SPACE for time in TIME)


def band_fractions(size: Size) -> dict[str, float]:
    """Which share of an (F, H, W) latent's coefficients each band holds; they sum to 1.

    0 means that latents of this size have no such band: one frame has no time_high, 1×1 cells have space_low alone.
    """
    time, space = _members(size, torch.device("cpu"), torch.float64)
    counts = (time.sum(1) * space.sum(0)[:, None]).flatten() / math.prod(size)
    return dict(zip(band_names(), counts.tolist(), strict=True))


def band_energies(error: Tensor) -> Tensor:
    """Energy of each band: (6,), summing to `error.square().mean()`; of an `error` (B, C, F, H, W) of any dtype.

    Differentiable. float64 stays, everything else is reckoned in float32, under autocast too; with TF32 on
    (`torch.backends.cuda.matmul.allow_tf32`) coefficients carry its 10 bits. Raises ValueError for another rank.
    Cost: three matrix products, 0.8 GFLOP for (1, 16, 21, 60, 104), where a 14B expert's forward and backward pass is
    over 5 PFLOP; 17 ms on one CPU core, 24 ms with the gradient. A real FFT takes 9 ms, with the gradient 34 ms.
    """
    if error.ndim != 5:
        raise ValueError(f"expected an error (B, C, F, H, W), found {tuple(error.shape)}")
    dtype = torch.float64 if error.dtype == torch.float64 else torch.float32
    size = _size(error)
    in_time, in_height, in_width = (_dct(length, error.device, dtype) for length in size)
    time, space = _members(size, error.device, dtype)
    with torch.autocast(error.device.type, enabled=False):
        coefficients = in_height @ (error.to(dtype) @ in_width.T)
        coefficients = in_time @ coefficients.flatten(3)
        energy = coefficients.square().mean((0, 1))  # (F, H·W)
        return (time @ energy @ space).T.flatten() / math.prod(size)


def band_losses(error: Tensor) -> dict[str, Tensor]:
    """Mean squared error per coefficient of each band that latents of this size have: what a tracker shows.

    White error gives every band the same number, the plain mean square, at any size; and the mean of them weighted by
    `band_fractions` is the plain mean square.
    """
    return {
        name: energy / fraction
        for (name, fraction), energy in zip(band_fractions(_size(error)).items(), band_energies(error), strict=True)
        if fraction
    }


def band_shares(error: Tensor) -> dict[str, Tensor]:
    """Share of the mean squared error that lies in each band latents of this size have; they sum to 1.

    White error gives each band its `band_fractions`. NaN where there is no error at all.
    """
    energies = band_energies(error)
    fractions = band_fractions(_size(error)).items()
    return {
        name: share for (name, fraction), share in zip(fractions, energies / energies.sum(), strict=True) if fraction
    }


def emphasised_loss(error: Tensor, weights: Mapping[str, float]) -> Tensor:
    """Mean square of `error` (B, C, F, H, W) with each band's energy times its weight (1 if not named); a scalar.

    Weights are scaled so that their mean over the coefficients is 1: white error keeps its loss, and the learning rate
    its meaning. Where all bands there are weigh the same, it is the plain mean square. For a weighted mean square
    (upstream's `weighting_scheme`) give error·√weighting. Raises ValueError for an unknown band.
    """
    if unknown := set(weights) - set(band_names()):
        raise ValueError(f"expected bands out of {band_names()}, found {sorted(unknown)}")
    there = {name: fraction for name, fraction in band_fractions(_size(error)).items() if fraction}
    if len({weights.get(name, 1.0) for name in there}) == 1:
        return error.to(torch.promote_types(error.dtype, torch.float32)).square().mean()
    mean = math.fsum(weights.get(name, 1.0) * fraction for name, fraction in there.items())
    energies = band_energies(error)
    return (energies * energies.new_tensor([weights.get(name, 1.0) / mean for name in band_names()])).sum()


def parse_emphasis(text: str) -> dict[str, float]:
    """Weights of all six bands from `--band_emphasis`, as "space_high=2,time_high=1.5".

    Each NAME=WEIGHT multiplies: a band by its full name ("space_high/time_low=3"), all bands of space_high by that.
    Raises UserError listing every word that is not such, with the nearest name.
    """
    weights, seen, problems = dict.fromkeys(band_names(), 1.0), set[str](), Problems()
    for word in text.split(","):
        name, _, number = (part.strip() for part in word.partition("="))
        weight = _weight(number)
        if name not in (*SPACE, *TIME, *band_names()):
            problems.add(f"--band_emphasis {word.strip()}", "expected NAME=WEIGHT of a band", _nearest(name))
        elif weight is None:
            expected = f"expected a weight from {WEIGHTS[0]:g} to {WEIGHTS[1]:g}"
            problems.add(f"--band_emphasis {word.strip()}", expected, f"{name}=2 makes it count double")
        elif name in seen:
            problems.add(f"--band_emphasis {word.strip()}", f"{name} is given twice", "leave one of them out")
        else:
            weights = {band: old * weight if _covers(name, band) else old for band, old in weights.items()}
        seen.add(name)
    problems.raise_if_any()
    return weights


def _covers(name: str, band: str) -> bool:
    return name == band or name in band.split("/")


def _weight(text: str) -> float | None:
    """A weight that may be used, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if WEIGHTS[0] <= number <= WEIGHTS[1] else None


def _nearest(name: str) -> str:
    names = (*SPACE, *TIME, *band_names())
    close = difflib.get_close_matches(name, names, 1)
    return f"did you mean {close[0]}?" if close else f"bands are {', '.join(SPACE + TIME)}"


def _size(error: Tensor) -> Size:
    frames, height, width = error.shape[-3:]
    return frames, height, width


@lru_cache(maxsize=64)
def _dct(length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The orthonormal DCT-II as a matrix (frequency, place), row k at k/length of Nyquist."""
    with torch.inference_mode(False):  # cached by a validation, used by a training step's autograd
        places = torch.arange(length, dtype=torch.float64)
        matrix = torch.cos(math.pi / length * (places + 0.5) * places[:, None]) * math.sqrt(2 / length)
        matrix[0] /= math.sqrt(2)
        return matrix.to(device, dtype)


@lru_cache(maxsize=64)
def _members(size: Size, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """1 where a frequency is in a band, else 0: (2, F) for time and (H·W, 3) for space."""
    with torch.inference_mode(False):
        in_time, in_height, in_width = (torch.arange(length, dtype=torch.float64) / length for length in size)
        high = (in_time >= TIME_CUT).long()
        radius = torch.hypot(in_height[:, None], in_width).flatten()
        ring = torch.bucketize(radius, torch.tensor(SPACE_CUTS, dtype=torch.float64), right=True)
        time, space = torch.nn.functional.one_hot(high, len(TIME)).T, torch.nn.functional.one_hot(ring, len(SPACE))
        return time.to(device, dtype), space.to(device, dtype)
