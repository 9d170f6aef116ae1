"""A plot of horizontal bars as SVG, in light and dark."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

__all__ = ["Bar", "Panel", "svg"]

WIDTH, LABELS, VALUES = 860, 370, 60  # of the whole; of the labels left, of the values right
ROW, BAR, TITLE, GAP, MARGIN = 24, 14, 34, 18, 16

_STYLE = """
  svg { background: #fff; font: 13px system-ui, sans-serif }
  text { fill: #24292f } .title { font-weight: 600 } .ours text { font-weight: 600 }
  rect { fill: #afb8c1 } .ours rect { fill: #1a7f37 }
  @media (prefers-color-scheme: dark) {
    svg { background: #0d1117 } text { fill: #e6edf3 }
    rect { fill: #484f58 } .ours rect { fill: #3fb950 }
  }
"""


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    is_ours: bool


@dataclass(frozen=True)
class Panel:
    title: str
    bars: list[Bar]


def svg(panels: list[Panel]) -> str:
    """Return the panels one below the other, each with a scale of its own from zero."""
    parts, top = [], MARGIN
    for panel in panels:
        longest = max((bar.value for bar in panel.bars), default=1)
        parts.append(
            f'<text class="title" x="{MARGIN}" y="{top + 16}">{escape(panel.title)}</text>'
        )
        top += TITLE
        for bar in panel.bars:
            parts.append(_bar(bar, longest, top))
            top += ROW
        top += GAP
    titles = "; ".join(panel.title for panel in panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" role="img" '
        f'width="{WIDTH}" height="{top}">\n<title>{escape(titles)}</title>\n'
        f"<style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _bar(bar: Bar, longest: float, top: int) -> str:
    length = max(1.0, bar.value / longest * (WIDTH - LABELS - VALUES - 2 * MARGIN))
    value = f"{bar.value:.0f}" if bar.value >= 100 else f"{bar.value:.1f}"
    left, text = MARGIN + LABELS, top + BAR - 2
    group = ' class="ours"' if bar.is_ours else ""
    label = escape(bar.label.replace("`", ""))
    return (
        f"<g{group}>"
        f'<text x="{left - 10}" y="{text}" text-anchor="end">{label}</text>'
        f'<rect x="{left}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2"/>'
        f'<text x="{left + length + 8:.1f}" y="{text}">{value}</text></g>'
    )
