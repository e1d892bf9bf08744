"""The primary metric of a table's rows as a picture: a line per row, its interval and value. Inline SVG, no library."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from bench.leaderboard.rows import Row, primary

WIDTH, NAMES, VALUES, LINE, TOP = 900, 290, 170, 24, 14


def forest(rows: Sequence[Row], metric: str) -> str:
    """An <svg> element; rows without a value are left out. "" where none has one.

    Methods are round and dark, references square and grey. An arrow at the edge: the interval goes on.
    """
    shown = [row for row in rows if (e := primary(row)) is not None and e.value is not None]
    if not shown:
        return ""
    low, high, ticks = _axis(shown)
    left, right = NAMES, WIDTH - VALUES
    height = TOP + LINE * len(shown) + 40

    def x(value: float) -> float:
        return left + (min(max(value, low), high) - low) / (high - low) * (right - left)

    label = html.escape(f"{metric} of each row with its 95 % interval")
    parts = [f'<svg class="forest" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">']
    bottom = TOP + LINE * len(shown)
    for tick in ticks:
        parts.append(f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP - 6}" y2="{bottom}" class="grid"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    parts.append(
        f'<text x="{(left + right) / 2:.1f}" y="{bottom + 34}" text-anchor="middle">{html.escape(metric)}</text>'
    )
    for i, row in enumerate(shown):
        parts += _line(row, TOP + LINE * i + LINE / 2, x, (low, high))
    return "\n".join([*parts, "</svg>"])


def _line(row: Row, y: float, x, limits: tuple[float, float]) -> list[str]:  # type: ignore[no-untyped-def]
    estimate = primary(row)
    assert estimate is not None and estimate.value is not None
    kind = row.kind
    name = row.label if len(row.label) <= 40 else row.label[:39] + "…"
    parts = [f'<text x="{NAMES - 12}" y="{y + 4:.1f}" text-anchor="end" class="{kind}">{html.escape(name)}</text>']
    text = f"{estimate.value:.3f} (no interval)"
    if estimate.low is not None and estimate.high is not None:
        text = f"{estimate.value:.3f} ({estimate.low:.3f}–{estimate.high:.3f})"
        a, b = x(estimate.low), x(estimate.high)
        parts.append(f'<line x1="{a:.1f}" x2="{b:.1f}" y1="{y:.1f}" y2="{y:.1f}" class="bar {kind}"/>')
        for end, value, side in ((a, estimate.low, -1), (b, estimate.high, 1)):
            beyond = value < limits[0] if side < 0 else value > limits[1]
            shape = (
                f"M{end - 5 * side:.1f} {y - 4:.1f}L{end:.1f} {y:.1f}L{end - 5 * side:.1f} {y + 4:.1f}"
                if beyond
                else f"M{end:.1f} {y - 4:.1f}L{end:.1f} {y + 4:.1f}"
            )
            parts.append(f'<path d="{shape}" class="bar {kind}"/>')
    centre = x(estimate.value)
    if kind == "reference":
        parts.append(f'<rect x="{centre - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" class="mark reference"/>')
    else:
        parts.append(f'<circle cx="{centre:.1f}" cy="{y:.1f}" r="4.5" class="mark method"/>')
    parts.append(f'<text x="{WIDTH - VALUES + 14}" y="{y + 4:.1f}" class="{kind}">{text}</text>')
    return parts


def _axis(rows: Sequence[Row]) -> tuple[float, float, list[float]]:
    """Limits that hold every value and interval, at round steps, and the ticks."""
    numbers: list[float] = []
    for row in rows:
        estimate = primary(row)
        assert estimate is not None
        numbers += [v for v in (estimate.value, estimate.low, estimate.high) if v is not None]
    span = max(numbers) - min(numbers)
    step = next((s for s in (0.02, 0.05, 0.1, 0.2, 0.5) if span <= 7 * s), 10 ** math.floor(math.log10(span or 1)))
    low, high = math.floor(min(numbers) / step + 1e-9) * step, math.ceil(max(numbers) / step - 1e-9) * step
    if high <= low:
        low, high = low - step, high + step
    count = round((high - low) / step)
    return low, high, [round(low + step * i, 6) for i in range(count + 1)]
