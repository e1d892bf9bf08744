"""From parts to Estimates: one seed, several seeds, and differences between methods (docs/metrics/intervals.md).

Var = Var_patient(mean over seeds) + s^2_seed / K, Satterthwaite degrees of freedom. Shapes: G patients, K seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import nct, norm
from scipy.stats import t as student

from bench.metrics.bootstrap import RESAMPLES, bca, resample
from bench.metrics.estimate import Estimate
from bench.metrics.parts import Part, Totals, patient_freedom, patient_variance
from data.errors import DataError

LEVEL = 0.95
ALPHA = 1 - LEVEL
ONE_SEED = "patients only: one seed says nothing about the next"
ONE_NETWORK = "a fact of one trained network: only further seeds would give an interval"
_NONE = 1e-16  # a variance below this is none: rounding leaves about 1e-33


@dataclass(frozen=True)
class Spread:
    """What a value's interval is made of: variances of its two sources and the degrees of freedom of their sum."""

    patients: float
    seeds: float
    freedom: float

    @property
    def variance(self) -> float:
        return self.patients + self.seeds

    @property
    def error(self) -> float:
        return float(np.sqrt(self.variance))

    @property
    def quantile(self) -> float:
        return float(student.ppf(1 - ALPHA / 2, self.freedom))


def spread(parts: Sequence[Part], minus: Sequence[Part] = (), paired_seeds: bool = False) -> Spread:
    """The spread of the mean over `parts` (one a seed), less that over `minus`: patients paired, seeds independent.

    paired_seeds: parts[k] and minus[k] are two readings of one training: what a seed does to both alike is no spread of the
    difference, so the seeds' part is s^2 of the K differences / K. Raises ValueError where their numbers differ.
    """
    psi = mean_psi(parts) - (mean_psi(minus) if minus else 0.0)
    patients = patient_variance(psi)
    terms = [(patients, patient_freedom(psi, parts[0].strata))]
    groups = [[part.value for part in group] for group in (parts, minus)]
    if paired_seeds:
        groups = [[one - other for one, other in zip(*groups, strict=True)]]
    for group in groups:
        if len(group) > 1:
            seeds = float(np.var(group, ddof=1)) / len(group)
            terms.append((seeds, len(group) - 1))
    total = sum(variance for variance, _ in terms)
    below = sum(variance**2 / freedom for variance, freedom in terms)
    return Spread(patients, total - patients, total**2 / below if below > 0 else terms[0][1])


def mean_psi(parts: Sequence[Part]) -> np.ndarray:
    """(G,) the patients' contributions, averaged over seeds."""
    return np.asarray(np.mean([part.psi for part in parts], axis=0))


def same_rows(one: Part, other: Part) -> bool:
    """Whether both rest on the same patients, and on as many rows."""
    return np.array_equal(one.patients, other.patients) and (one.n == other.n or one.of_model)


def check_same_rows(parts: Sequence[Part]) -> None:
    """Raise DataError unless all parts rest on the same patients."""
    for part in parts[1:]:
        if not same_rows(part, parts[0]):
            raise DataError(
                "frames of different test rows",
                f"{parts[0].n} and {part.n} rows",
                "compare runs of the same data and split",
            )


def estimate(parts: Sequence[Part]) -> Estimate:
    """The mean over seeds with its two-way interval; with one seed the interval is of patients only, and says so."""
    check_same_rows(parts)
    value = float(np.mean([part.value for part in parts]))
    notes = [note for note in dict.fromkeys(part.note for part in parts) if note]
    if not np.isfinite(value):
        return Estimate(None, None, None, parts[0].n, "none", "; ".join([*notes, "not defined on these rows"]))
    if parts[0].band:
        make = _of_random_weights
    elif parts[0].of_model:
        make = _of_networks
    else:
        notes += [ONE_SEED] if len(parts) == 1 else []
        totals = parts[0].totals
        make = _placed if totals is None else _jackknifed if totals.biased else _bootstrapped
    found = make(parts, value)
    note = "; ".join([*([found.note] if found.note else []), *notes])
    return replace(found, note=note)


def _who(parts: Sequence[Part]) -> str:
    return f"patients x {len(parts)} seeds" if len(parts) > 1 else "patients"


def _of_networks(parts: Sequence[Part], value: float) -> Estimate:
    """The t interval over seeds of what is a fact of each network; which patients were met does not enter."""
    n = min(part.n for part in parts)
    if len(parts) == 1:
        return Estimate(value, None, None, n, "none", ONE_NETWORK)
    found = spread(parts)
    if found.variance < _NONE:
        return Estimate(value, None, None, n, "none", "the seeds do not differ")
    half = found.quantile * found.error
    low, high = max(value - half, 0.0), min(value + half, parts[0].highest)
    return Estimate(value, low, high, n, f"t over {len(parts)} seeds, no patients")


def _of_random_weights(parts: Sequence[Part], value: float) -> Estimate:
    """A null band: from the lowest to the highest value of networks that have learnt nothing."""
    values = [one for part in parts for one in part.band]
    count = max(len(part.band) for part in parts)  # each seed is set beside the same networks
    kind = f"range of {count} networks with random weights"
    return Estimate(value, min(values), max(values), parts[0].n, kind)


def _placed(parts: Sequence[Part], value: float) -> Estimate:
    """The logit-t interval of psi; at exactly 0 or 1 a one-sided bound."""
    n, open_ = parts[0].n, parts[0].open
    if open_:
        return Estimate(value, None, None, n, "none", open_)
    edge = 1e-12
    if not edge < value < 1 - edge:
        return _at_the_edge(value, n, parts[0].bound)
    found = spread(parts)
    if found.variance < _NONE:
        return Estimate(value, None, None, n, "none", "scores do not vary within the classes")
    half = found.quantile * found.error / (value * (1 - value))
    low, high = expit(logit(value) - half), expit(logit(value) + half)
    return Estimate(value, float(low), float(high), n, f"patient-clustered logit t ({_who(parts)})")


def _at_the_edge(value: float, n: int, pairs: int) -> Estimate:
    """One-sided 95 % bound at 0 or 1: all `pairs` comparisons of disjoint patients came out alike: A^pairs >= 0.05."""
    bound = ALPHA ** (1 / max(pairs, 1))
    low, high = (bound, 1.0) if value > 0.5 else (0.0, 1 - bound)
    return Estimate(
        value, float(low), float(high), n, "one-sided exact bound", f"one-sided: {pairs} independent comparisons"
    )


def _bootstrapped(parts: Sequence[Part], value: float) -> Estimate:
    """BCa over patients of the mean over seeds, its two arms widened by what the seeds and their few degrees add."""
    totals, n = _joint(parts), parts[0].n
    drawn = resample(totals)
    drawn[~np.isfinite(drawn)] = np.nan  # e.g. a skill over a blind map that is perfect there
    low, high = bca(value, drawn, totals.jackknife(), LEVEL)
    undefined = int(np.isnan(drawn).sum())
    note = f"{undefined} of {RESAMPLES} resamples left out: not defined there" if undefined else ""
    kind = f"patient bootstrap BCa ({RESAMPLES}; {_who(parts)})"
    if high - low < 1e-12:
        if totals.proportion:
            cases = totals.cases or len(parts[0].patients)
            low, high = wilson(value, cases)
            return Estimate(value, low, high, n, "Wilson", f"no patient differs: Wilson on {cases} patients")
        return Estimate(value, None, None, n, "none", "resamples do not vary")
    if totals.proportion and not 1e-12 < value < 1 - 1e-12:  # resamples that find something make nothing surer
        cases = totals.cases or len(parts[0].patients)
        edges = wilson(value, cases)
        kind, low, high = f"{kind}, at least Wilson's on {cases} patients", min(low, edges[0]), max(high, edges[1])
        return Estimate(value, low, high, n, kind, note)
    seeds = np.array([part.value for part in parts])
    return Estimate(value, *_widened(value, low, high, float(np.nanvar(drawn)), seeds, parts[0], totals), n, kind, note)


def _jackknifed(parts: Sequence[Part], value: float) -> Estimate:
    """t interval of psi around the value less its jackknife bias; it always holds the value as well."""
    totals, n, count = _joint(parts), parts[0].n, len(parts[0].patients)
    found = spread(parts)
    if not found.variance > _NONE:
        return Estimate(value, None, None, n, "none", "no patient tells")
    centre = value - (count - 1) * (float(np.nanmean(totals.jackknife())) - value)
    half = found.quantile * found.error
    low, high = max(min(value, centre - half), totals.lowest), min(max(value, centre + half), totals.highest)
    return Estimate(value, low, high, n, f"jackknife t, bias-corrected ({_who(parts)})")


def _joint(parts: Sequence[Part]) -> Totals:
    """Totals whose runs are all seeds' runs, so that their mean is the mean over seeds."""
    totals = [part.totals for part in parts if part.totals is not None]
    runs = [run for one in totals for run in one.stats]
    return replace(totals[0], stats=runs, highest=max(one.highest for one in totals))


def _widened(
    value: float, low: float, high: float, patients: float, seeds_K: np.ndarray, part: Part, totals: Totals
) -> tuple[float, float]:
    """The arms of a patients' interval, scaled by t sqrt(V_patients + V_seeds) / (z sqrt(V_patients))."""
    if len(seeds_K) > 1:
        seeds = float(np.var(seeds_K, ddof=1)) / len(seeds_K)
        freedom = (patients + seeds) ** 2 / (
            patients**2 / patient_freedom(part.psi, part.strata) + seeds**2 / (len(seeds_K) - 1)
        )
        factor = student.ppf(1 - ALPHA / 2, freedom) / norm.ppf(1 - ALPHA / 2) * np.sqrt(1 + seeds / patients)
        low, high = value - factor * (value - low), value + factor * (high - value)
    return float(max(low, totals.lowest)), float(min(high, totals.highest))


def wilson(value: float, effective: float) -> tuple[float, float]:
    """Wilson's interval of a proportion on an effective number of independent cases, which need not be whole."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(value * effective, effective, alpha=ALPHA, method="wilson")
    return float(low), float(high)


def quick_proportion(part: Part) -> Estimate:
    """Wilson on n over the design effect of patients: no resampling, for every epoch."""
    variance, chance = part.variance, part.value * (1 - part.value)
    effective = float(len(part.patients)) if variance < _NONE else min(float(part.n), chance / variance)
    low, high = wilson(part.value, effective)
    return Estimate(part.value, low, high, part.n, "Wilson on effective n (patients)", f"effective n {effective:.0f}")


# ---- comparing ------------------------------------------------------------------------------------------------------
def difference(a: Sequence[Part], b: Sequence[Part], paired_seeds: bool = False) -> tuple[Estimate, float]:
    """a - b with interval and two-sided p; patients paired, seeds as in `spread`. p is NaN where no patient varies."""
    check_same_rows([*a, *b])
    value = float(np.mean([p.value for p in a]) - np.mean([p.value for p in b]))
    n = a[0].n
    if not np.isfinite(value):
        return Estimate(None, None, None, n, "none", "not defined on these rows"), float("nan")
    found = spread(a, b, paired_seeds)
    of_model, fewest = a[0].of_model, min(len(a), len(b))
    if of_model and fewest == 1:
        return Estimate(value, None, None, n, "none", ONE_NETWORK), float("nan")
    notes = "" if fewest > 1 else "a method with one seed: the interval lacks the seed's part"
    if found.variance < _NONE or not np.isfinite(found.variance):
        p = 1.0 if abs(value) < 1e-12 else float("nan")
        why = "no seed differs from another" if of_model else "no patient tells the methods apart"
        return Estimate(value, None, None, n, "none", why), p
    open_ = a[0].open or b[0].open
    if open_:
        return Estimate(value, None, None, n, "none", open_), float("nan")
    half = found.quantile * found.error
    limit = 1.0 if a[0].totals is None else a[0].totals.highest - a[0].totals.lowest
    p = float(2 * student.sf(abs(value) / found.error, found.freedom))
    kind = _kind(a, b, paired_seeds)
    return Estimate(value, max(value - half, -limit), min(value + half, limit), n, kind, notes), p


def _kind(a: Sequence[Part], b: Sequence[Part], paired_seeds: bool) -> str:
    if paired_seeds:
        return f"{'paired seeds alone' if a[0].of_model else 'paired patients, paired seeds'}, t ({_seeds(a)})"
    return f"{'seeds alone' if a[0].of_model else 'paired patients'}, t ({_seeds(a)} and {_seeds(b)})"


def _seeds(parts: Sequence[Part]) -> str:
    return f"{len(parts)} seed{'s' if len(parts) > 1 else ''}"


def smallest_difference(
    a: Sequence[Part], b: Sequence[Part], paired_seeds: bool = False, power: float = 0.8
) -> float | None:
    """The smallest true difference that these patients and seeds would have shown with this power."""
    check_same_rows([*a, *b])
    found = spread(a, b, paired_seeds)
    if not np.isfinite(found.variance) or found.variance < _NONE:
        return None

    def lack(shift: float) -> float:
        return float(nct.sf(found.quantile, found.freedom, shift)) - power

    return float(brentq(lack, 0.0, 50.0 + 10 * found.quantile)) * found.error


def holm(p_values: Sequence[float], alpha: float = ALPHA) -> tuple[np.ndarray, np.ndarray]:
    """Holm over a family: adjusted p and which are rejected. NaN stays NaN and does not count into the family."""
    from statsmodels.stats.multitest import multipletests

    p = np.asarray(p_values, dtype=np.float64)
    adjusted, rejected = np.full(len(p), np.nan), np.zeros(len(p), dtype=bool)
    known = np.isfinite(p)
    if known.any():
        rejected[known], adjusted[known] = multipletests(p[known], alpha=alpha, method="holm")[:2]
    return adjusted, rejected
