"""The circle that explains tracks best: bundle adjustment with the turntable built in.

Points are eliminated before each step (Schur complement), so that a step solves for the frames alone: B. Triggs,
P. McLauchlan, R. Hartley, A. Fitzgibbon, "Bundle adjustment: a modern synthesis", 2000, section 6.1. Cauchy's function
weighs false tracks down. Steps are damped as K. Levenberg (1944) and D. Marquardt (1963) do it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from musubi_ext.orbits.geometry.turntable import (
    PER_FRAME,
    POINT_STD,
    Circle,
    Doubles,
    Flags,
    derivatives,
    prior,
    steady,
    turns,
    view,
)

NOISE = 0.8  # pixels: standard deviation of a followed corner
TAIL = 2.0  # Cauchy's scale in standard deviations
SWEEPS = (20.0, 40.0, 80.0, 140.0, 280.0)  # degrees to start from, either way: the cost has several minima
TRIAL_STEPS, FINAL_STEPS = 5, 20
CONVERGED = 1e-4  # relative change of the cost
DAMPING, DAMPING_LEAST, DAMPING_MOST = 1e-2, 1e-7, 1e4


@dataclass(frozen=True)
class System:
    """Normal equations of a linearisation: frames and lens (C, C), (C,); points (N, 3, 3), (N, 3); mixed (N, 3, C)."""

    frames: Doubles
    frames_right: Doubles
    points: Doubles
    points_right: Doubles
    mixed: Doubles


class Adjustment:
    """Tracks `xy` (N, K, 2) in widths from the picture's centre, NaN where unseen; `noise` in widths."""

    def __init__(self, xy: Doubles, noise: float) -> None:
        self.seen: Flags = ~np.isnan(xy[..., 0])
        self.xy = np.where(self.seen[..., None], xy, 0.0)
        self.noise = noise
        self.prior, self.expected = prior(xy.shape[1])

    def best(self, sign: int) -> Circle:
        """The best circle found from several steady sweeps in one direction."""
        trials = [self.refine(self.start(sign * sweep), TRIAL_STEPS) for sweep in SWEEPS]
        return self.refine(min(trials, key=lambda trial: trial.cost), FINAL_STEPS)

    def start(self, sweep: float) -> Circle:
        """A steady circle with the points that fit it: least squares of the rows (e^g r1 − u r3) · X = u · e^ρ."""
        circle = steady(self.xy.shape[1], len(self.xy), sweep)
        turn = turns(circle)
        rows = np.exp(circle.lens[1]) * turn[None, :, :2] - self.xy[..., None] * turn[None, :, 2:]
        rows = rows * self.seen[..., None, None]
        normal = np.einsum("nkai,nkaj->nij", rows, rows) + np.eye(3) * (self.noise / POINT_STD) ** 2
        points = np.linalg.solve(normal, np.einsum("nkai,nka->ni", rows, self.xy)[..., None])[..., 0]
        return self._valued(replace(circle, points=points))

    def refine(self, circle: Circle, steps: int) -> Circle:
        """At most `steps` damped Gauss-Newton steps from `circle`; never a worse one."""
        damping = DAMPING
        system = self._system(circle)
        for _ in range(steps):
            moved = self._valued(_moved(circle, system, damping))
            if moved.cost < circle.cost:
                gain = 1 - moved.cost / circle.cost
                circle, damping = moved, max(damping / 5, DAMPING_LEAST)
                if gain < CONVERGED:
                    break
                system = self._system(circle)
            else:
                damping *= 8
                if damping > DAMPING_MOST:
                    break
        return circle

    def residual(self, circle: Circle) -> Doubles:
        """(N, K) distance from the seen to the fitted place in standard deviations, NaN where unseen."""
        return np.where(self.seen, np.linalg.norm(self._errors(circle), axis=-1), np.nan)

    def _errors(self, circle: Circle) -> Doubles:
        """(N, K, 2) in standard deviations, 0 where unseen."""
        error = view(circle).picture + circle.frames[:, 1:3] - self.xy
        return np.asarray(error * (self.seen / self.noise)[..., None])

    def _valued(self, circle: Circle) -> Circle:
        """With its cost: minus twice the logarithm of the probability, up to a constant."""
        data = TAIL**2 * np.log1p((self._errors(circle) ** 2).sum(-1) / TAIL**2).sum()
        away = ((self.prior @ circle.state - self.expected) ** 2).sum() + (circle.points**2).sum() / POINT_STD**2
        return replace(circle, cost=float(data + away))

    def _system(self, circle: Circle) -> System:
        error = self._errors(circle)
        weight = self.seen / self.noise / np.sqrt(1 + (error**2).sum(-1) / TAIL**2)
        by_point, by_state = (part * weight[..., None, None] for part in derivatives(circle, view(circle)))
        count, frames = self.seen.shape
        wide = np.zeros((count, frames, 2, frames * PER_FRAME + 2))
        for frame in range(frames):
            wide[:, frame, :, frame * PER_FRAME : (frame + 1) * PER_FRAME] = by_state[:, frame, :, :PER_FRAME]
        wide[..., -2:] = by_state[..., PER_FRAME:]
        jacobian, points = wide.reshape(count, 2 * frames, -1), by_point.reshape(count, 2 * frames, 3)
        right = (error * self.noise * weight[..., None]).reshape(count, -1)
        flat = jacobian.reshape(-1, jacobian.shape[-1])
        away = self.prior @ circle.state - self.expected
        return System(
            frames=flat.T @ flat + self.prior.T @ self.prior,
            frames_right=flat.T @ right.ravel() + self.prior.T @ away,
            points=points.transpose(0, 2, 1) @ points + np.eye(3) / POINT_STD**2,
            points_right=np.einsum("nri,nr->ni", points, right) + circle.points / POINT_STD**2,
            mixed=points.transpose(0, 2, 1) @ jacobian,
        )


def _moved(circle: Circle, system: System, damping: float) -> Circle:
    """One damped step: frames and lens from the reduced system, points by back-substitution."""
    points = system.points * (1 + damping * np.eye(3))
    solved = np.linalg.solve(points, np.concatenate([system.mixed, system.points_right[..., None]], -1))
    size = system.mixed.shape[-1]
    reduced = system.frames - system.mixed.reshape(-1, size).T @ solved[..., :-1].reshape(-1, size)
    right = system.frames_right - system.mixed.reshape(-1, size).T @ solved[..., -1].ravel()
    move = np.linalg.solve(reduced + damping * np.diag(np.diag(reduced)), right)
    state = circle.state - move
    moved = circle.points - (solved[..., -1] - solved[..., :-1] @ move)
    return Circle(state[:-2].reshape(-1, PER_FRAME), state[-2:], moved)
