"""Figures as a table, as JSON and as a chart."""
import html
import json
import statistics

from .rows import ROWS

COLOURS = {"sidekey": "#1f6f54", "nginx": "#4f7fb0", "haproxy": "#b0784f", "envoy": "#8a62a8", "caddy": "#777777"}


def medians(figures):
    """Of each row and proxy, where there is a figure."""
    found = {}
    for row in ROWS:
        of = {name: statistics.median(values) for name, values in figures.get(row, {}).items() if values}
        if of:
            found[row] = of
    return found


def best_peer(of):
    peers = {name: value for name, value in of.items() if name != "sidekey"}
    return min(peers, key=peers.get) if peers else None


def number(value):
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"


def table(figures, names):
    """Medians; the last column compares Sidekey with the best of its peers in that row."""
    lines = ["| | unit | " + " | ".join(names) + " | Sidekey ÷ best peer |", "|---" * (len(names) + 3) + "|"]
    for row, of in medians(figures).items():
        cells = [number(of[name]) if name in of else "–" for name in names]
        best = best_peer(of)
        ratio = f"{of['sidekey'] / of[best]:.2f} ({best})" if best and "sidekey" in of and of[best] else "–"
        lines.append(f"| {ROWS[row].title} | {ROWS[row].unit} | " + " | ".join(cells) + f" | {ratio} |")
    return "\n".join(lines)


def save_json(path, facts, figures, lines):
    rows = {}
    for row, of in figures.items():
        values = {name: {"median": statistics.median(of[name]), "min": min(of[name]), "max": max(of[name]), "rounds": of[name]}
                  for name in of if of[name]}
        rows[row] = {"title": ROWS[row].title, "unit": ROWS[row].unit, "less_is_better": True, "values": values}
    path.write_text(json.dumps({**facts, "rows": rows, "raw": lines}, indent=1) + "\n")


def save_svg(path, facts, figures, names):
    """Bars, by row, each as a part of the row's largest; a thin line from the least to the greatest round."""
    parts, top = [], 34
    for row, of in medians(figures).items():
        rounds = figures[row]
        largest = max(max(rounds[name]) for name in of) or 1
        parts.append(f'<text x="10" y="{top + 13}" font-weight="bold">{html.escape(ROWS[row].title)}, '
                     f'{html.escape(ROWS[row].unit)}</text>')
        top += 20
        for name in [name for name in names if name in of]:
            width, low, high = (max(1.0, 420 * value / largest) for value in (of[name], min(rounds[name]), max(rounds[name])))
            parts.append(f'<text x="100" y="{top + 12}" text-anchor="end">{html.escape(name)}</text>'
                         f'<rect x="108" y="{top + 2}" width="{width:.0f}" height="12" fill="{COLOURS.get(name, "#999999")}"/>'
                         f'<path d="M{108 + low:.0f} {top + 8}H{108 + high:.0f}" stroke="#000000" stroke-width="1"/>'
                         f'<text x="{114 + high:.0f}" y="{top + 12}">{number(of[name])}</text>')
            top += 17
        top += 9
    title = f"Sidekey beside its peers: medians of {facts['rounds']} rounds, {facts['time'][:10]}, less is better in every row"
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{top}" font-family="sans-serif" font-size="12">'
                    f'<rect width="640" height="{top}" fill="#ffffff"/><text x="10" y="20" font-size="14">{html.escape(title)}</text>'
                    f'{"".join(parts)}</svg>\n')
