"""The picture: cost against number of clients, as SVG written by hand.

Cost is the yardstick's rate over the subject's: 1 is bare FastAPI, 4 is four times its price per request.
Both axes are logarithmic; one panel per number of workers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from pathlib import Path

from benchmarks.results import YARDSTICK, Group, Setting, Spread, ratios, spread

PANEL_WIDTH = 460
PANEL_HEIGHT = 320
LEFT, TOP, RIGHT, BOTTOM = 62, 64, 148, 48
LABEL_GAP = 15
COLOURS = {
    "bare": "#7a7f87",
    "ours": "#0b7a4b",
    "sqlite": "#b25e09",
    "sqlite-grouped": "#8250c4",
    "naive": "#c4314b",
}
STYLE = """
  svg { background: #fff } text { font: 12px system-ui, sans-serif; fill: #24292f }
  .title { font-size: 15px; font-weight: 600 } .quiet { fill: #57606a } .grid { stroke: #d8dee4 }
  @media (prefers-color-scheme: dark) {
    svg { background: #14181d } text { fill: #e6edf3 } .quiet { fill: #9da7b3 } .grid { stroke: #30363d }
  }
"""


@dataclass(frozen=True, slots=True)
class Point:
    clients: int
    cost: Spread


@dataclass(frozen=True, slots=True)
class Scale:
    """A logarithmic axis from one power of ten to another, on pixels."""

    first_power: int
    last_power: int
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (log10(value) - self.first_power) / (self.last_power - self.first_power)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[int]:
        return [10**power for power in range(self.first_power, self.last_power + 1)]


def write(path: Path, groups: list[Group]) -> None:
    panels = _panels(groups)
    width = LEFT + len(panels) * (PANEL_WIDTH + RIGHT) + (len(panels) - 1) * LEFT
    height = TOP + PANEL_HEIGHT + BOTTOM
    points = [point for lines in panels.values() for line in lines.values() for point in line]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<title>Cost of one charged request, bare FastAPI = 1</title><style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="24">Cost of one charged request, bare FastAPI = 1</text>',
    ]
    for index, (title, lines) in enumerate(panels.items()):
        parts += _panel(title, lines, points, LEFT + index * (PANEL_WIDTH + RIGHT + LEFT))
    path.write_text("\n".join([*parts, "</svg>", ""]))


def _panels(groups: list[Group]) -> dict[str, dict[str, list[Point]]]:
    """Per panel the subjects, per subject its points from few clients to many."""
    panels: dict[str, dict[str, list[Point]]] = {}
    for group in sorted(groups, key=lambda group: (group.setting.workers, group.setting.clients)):
        lines = panels.setdefault(_title(group.setting), {})
        for outcome in group.outcomes:
            costs = [1 / ratio for ratio in ratios(group, outcome) if ratio > 0]
            if costs and not outcome.fault:
                lines.setdefault(outcome.subject, []).append(Point(group.setting.clients, spread(costs)))
    return panels


def _title(setting: Setting) -> str:
    workers = "1 worker" if setting.workers == 1 else f"{setting.workers} workers"
    flush = f", flush + {setting.flush_ms:g} ms" if setting.flush_ms else ""
    return f"{workers}, {setting.connections} connections{flush}"


def _scales(points: Iterable[Point], left: float) -> tuple[Scale, Scale]:
    clients = [point.clients for point in points] or [10]
    costs = [point.cost.high for point in points] or [1.0]
    first, last = floor(log10(min(clients))), ceil(log10(max(clients)))
    across = Scale(first, max(last, first + 1), left, left + PANEL_WIDTH)
    up = Scale(-1, max(1, ceil(log10(max(costs)))), TOP + PANEL_HEIGHT, TOP)
    return across, up


def _panel(title: str, lines: dict[str, list[Point]], points: list[Point], left: float) -> list[str]:
    across, up = _scales(points, left)
    bottom = TOP + PANEL_HEIGHT
    parts = [f'<text class="quiet" x="{left}" y="46">{escape(title)}</text>']
    for tick in range(up.first_power, up.last_power + 1):
        y = up.at(10**tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{left + PANEL_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(left - 8, y + 4, f"{10**tick:,}", "end"))
    parts += [_text(across.at(clients), bottom + 18, f"{clients:,}", "middle") for clients in across.ticks()]
    parts.append(_text(left + PANEL_WIDTH / 2, bottom + 38, "clients", "middle"))
    for subject, line in lines.items():
        parts += _line(subject, line, across, up)
    return parts + _labels(lines, across, up)


def _line(subject: str, line: list[Point], across: Scale, up: Scale) -> list[str]:
    colour = COLOURS.get(subject, "#57606a")
    path = " ".join(f"{across.at(each.clients):.1f},{up.at(each.cost.median):.1f}" for each in line)
    dashes = ' stroke-dasharray="5 4"' if subject == YARDSTICK else ""
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>']
    for each in line:
        x, y = across.at(each.clients), up.at(each.cost.median)
        low, high = up.at(each.cost.low), up.at(each.cost.high)
        figures = f"{each.cost.median:.2f} ({each.cost.low:.2f}-{each.cost.high:.2f})"
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}"/>')
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}">'
            f"<title>{escape(subject)}, {each.clients:,} clients: {figures}</title></circle>"
        )
    return parts


def _labels(lines: dict[str, list[Point]], across: Scale, up: Scale) -> list[str]:
    """Names beside the ends of the lines, moved apart where they would overlap."""
    ends = sorted((up.at(line[-1].cost.median), subject, line[-1]) for subject, line in lines.items())
    parts: list[str] = []
    lowest = 0.0
    for end, subject, point in ends:
        y = max(end + 4, lowest + LABEL_GAP)
        lowest = y
        colour = COLOURS.get(subject, "#57606a")
        label = f"{escape(subject)} {point.cost.median:,.3g}"
        parts.append(
            f'<text x="{across.at(point.clients) + 8:.1f}" y="{y:.1f}" style="fill: {colour}">{label}</text>'
        )
    return parts


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="quiet" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
