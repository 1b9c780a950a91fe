"""Results as text and as pictures (SVG), with nothing but Python."""
import math
from html import escape

COLOURS = ["#1b7f5c", "#7a6fbe", "#c9772b", "#4a86c5", "#b0457b", "#777777", "#a0a0a0"]


def table(rows, columns):
    """Rows of `{column: text}` as aligned text; absent cells are a dash."""
    cells = [columns] + [[row.get(column, "-") for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def seconds(value):
    return f"{value:.3f} s" if value < 1 else f"{value:.2f} s"


def bars(title, rows, names):
    """One group of bars for each row `(label, {name: seconds})`; lengths are logarithmic, since they differ by hundreds."""
    times = [time for _, values in rows for time in values.values()]
    low, high = min(times) / 1.5, max(times)
    left, width, bar = 130, 560, 14
    length = lambda time: 4 + (width - 110) * math.log(time / low) / math.log(high / low)
    parts, y = [], 34
    for label, values in rows:
        parts.append(f'<text x="{left - 10}" y="{y + bar * len(values) / 2 + 4:.0f}" text-anchor="end">{escape(label)}</text>')
        for name, time in values.items():
            colour = COLOURS[names.index(name) % len(COLOURS)]
            parts.append(f'<rect x="{left}" y="{y}" width="{length(time):.1f}" height="{bar - 3}" fill="{colour}"/>')
            parts.append(f'<text x="{left + length(time) + 5:.1f}" y="{y + 10}" class="small">{escape(name)} {seconds(time)}</text>')
            y += bar
        y += 8
    return _svg(left + width + 60, y + 22, title, parts, f"seconds, logarithmic; shorter is better", y + 12)


def lines(title, unit, curves):
    """Curves `{name: [(x, y), ...]}` over two logarithmic axes."""
    points = [point for curve in curves.values() for point in curve]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, top, width, height = 60, 30, 420, 240
    spread = lambda low, high: math.log(max(high / low, 1.01))
    place_x = lambda x: left + width * math.log(x / min(xs)) / spread(min(xs), max(xs))
    place_y = lambda y: top + height - height * math.log(y / min(ys)) / spread(min(ys), max(ys))
    parts = [f'<path d="M{left} {top}V{top + height}H{left + width}" fill="none" stroke="#999999"/>']
    for x in sorted(set(xs)):
        parts.append(f'<text x="{place_x(x):.0f}" y="{top + height + 16}" text-anchor="middle" class="small">{x:g}</text>')
    for y in (min(ys), max(ys)):
        parts.append(f'<text x="{left - 6}" y="{place_y(y) + 4:.0f}" text-anchor="end" class="small">{y:.3g}</text>')
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = "L".join(f"{place_x(x):.1f} {place_y(y):.1f}" for x, y in curve)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        x, y = curve[-1]
        parts.append(f'<text x="{place_x(x) + 6:.0f}" y="{place_y(y) + 4:.0f}" class="small" fill="{colour}">{escape(name)}</text>')
    return _svg(left + width + 150, top + height + 50, title, parts, unit, top + height + 38)


def _svg(width, height, title, parts, foot, foot_y):
    style = "text{font:13px sans-serif;fill:#333333}.small{font-size:11px}"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f"<style>{style}</style>", f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="20" font-weight="bold">{escape(title)}</text>', *parts,
        f'<text x="16" y="{foot_y}" class="small">{escape(foot)}</text>', "</svg>", ""])
