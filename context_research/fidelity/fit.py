"""Non-negative linear fits to measured durations: relative weights, mean kept, the machine's hiccups left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

HICCUP = 5.0
"""A duration longer than this × the model's is a pause of the machine, not the work."""
_ROUNDS = 50

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fitted:
    """`coefficients` of the columns, all ≥ 0, and how the measured lie around the fit."""

    coefficients: Array
    kept: NDArray[np.bool_]
    """Which durations were fitted: the others are hiccups."""
    residuals: dict[str, float]
    """p5, p50, p95 of (measured − fit) ÷ measured over those kept; `mean_error`: mean fit ÷ mean measured − 1;
    `hiccups` and `hiccup_time`: the share of durations that were left out, and of their sum."""

    def __str__(self) -> str:
        r = self.residuals
        return f"residuals p5/p50/p95 {r['p5']:+.1%} / {r['p50']:+.1%} / {r['p95']:+.1%}, mean {r['mean_error']:+.1%}"


def fit(columns: Array, durations: Array) -> Fitted:
    """Durations (n) as a non-negative combination of columns (n × k). Raises ValueError: nothing to fit.

    Least squares with the error relative to the *fit*, by reweighting. Where it has settled, the mean of
    measured ÷ fit is 1 (its normal equations, summed), so that means, such as TPOT, come out right however skewed the
    durations are. Robust losses and tight trimming fit the typical step instead: on real CPU steps, whose residuals
    have a long upper tail, soft-L1 was 6-14 % below the mean, cutting at 5 MAD 3-5 %, and this 0-3 %.
    Only what is longer than HICCUP × the fit is left out.
    """
    if not len(durations) or not (columns > 0).any():
        raise ValueError("nothing to fit")
    # From weights by the measured itself: biased low, but no pause however long can pull it up.
    coefficients = _weighted(columns, durations, 1 / durations)
    kept = np.ones(len(durations), dtype=bool)
    for _ in range(_ROUNDS):
        predicted = np.maximum(columns @ coefficients, 1e-3 * np.median(durations))
        kept = durations <= HICCUP * predicted
        before = coefficients
        coefficients = _weighted(columns[kept], durations[kept], 1 / predicted[kept])
        if np.allclose(coefficients, before, rtol=1e-6, atol=0):
            break
    predicted = (columns @ coefficients)[kept]
    measured = durations[kept]
    shares = np.percentile((measured - predicted) / measured, (5, 50, 95))
    residuals = {f"p{p}": float(share) for p, share in zip((5, 50, 95), shares, strict=True)}
    residuals["mean_error"] = float(predicted.mean() / measured.mean() - 1)
    residuals["hiccups"] = float(1 - kept.mean())
    residuals["hiccup_time"] = float(1 - measured.sum() / durations.sum())
    return Fitted(coefficients, kept, residuals)


def _weighted(columns: Array, durations: Array, weights: Array) -> Array:
    weighted = columns * weights[:, None]
    # Features lie nine orders of magnitude apart (a constant, query-key pairs): each at length 1 keeps nnls exact.
    lengths = np.linalg.norm(weighted, axis=0)
    lengths[lengths == 0] = 1
    return np.asarray(nnls(weighted / lengths, durations * weights)[0] / lengths)
