"""Draws docs/images/tensor_column.svg: a tensor column of three convolutions, at one of its steps.

The picture is computed, not painted: each 3x3 convolution needs one row above and one row below
those that it computes. The script needs nothing but Python.

    python docs/draw_column.py            # writes the picture
    python docs/draw_column.py --check    # fails if the picture in the repository is another one
"""

from __future__ import annotations

import argparse
from pathlib import Path

PICTURE = Path(__file__).parent / "images" / "tensor_column.svg"

LAYERS = ("input", "conv 1", "conv 2", "conv 3")
"""The input of the region and its stages; every stage is a 3x3 convolution."""
ROWS = 14
"""Rows of every image."""
COLUMN = range(6, 14)
"""Rows of the last stage that the column owns; the column above owns the rows before them."""
STEP_ROWS = 2
STEP = 1
"""Number of the step that is drawn, counted from 0."""

WIDTH, HEIGHT, GAP = 120, 24, 60
LEFT, TOP = 30, 70

Rows = tuple[int, int]

COLORS = {
    "above": "#e4e4e4",
    "later": "#ffffff",
    "done": "#bcd7ee",
    "carried": "#7fc08a",
    "new": "#2f74b5",
}
LEGEND = (
    ("new", "computed (or read) in this step"),
    ("carried", "carried over from earlier steps and read again"),
    ("done", "no longer needed by this column"),
    ("later", "still to come in this column"),
    ("above", "only the column above needs it"),
)


def with_window(rows: Rows) -> Rows:
    """Return the rows that a 3x3 convolution reads to compute `rows`, inside of the image."""
    first, end = rows
    return max(first - 1, 0), min(end + 1, ROWS)


def needed(rows: Rows) -> list[Rows]:
    """Return which rows of every layer are needed for `rows` of the last one."""
    result = [rows]
    for _ in LAYERS[1:]:
        result.insert(0, with_window(result[0]))
    return result


def kinds() -> list[list[str]]:
    """Return for every layer the kind of each of its rows, a key of `COLORS`."""
    own = (COLUMN.start, COLUMN.stop)
    first = COLUMN.start + STEP * STEP_ROWS
    before = needed((COLUMN.start, first))
    until_now = needed((COLUMN.start, first + STEP_ROWS))
    result = []
    for layer, (begin, end) in enumerate(needed(own)):
        computed, new_end = before[layer][1], until_now[layer][1]
        if layer + 1 < len(LAYERS):
            oldest_read, _ = with_window((before[layer + 1][1], until_now[layer + 1][1]))
        else:
            oldest_read = computed
        row_kinds = []
        for row in range(ROWS):
            if row < begin:
                kind = "above"
            elif row >= min(new_end, end):
                kind = "later"
            elif row >= computed:
                kind = "new"
            else:
                kind = "carried" if row >= oldest_read else "done"
            row_kinds.append(kind)
        result.append(row_kinds)
    return result


def text(x: int, y: int, content: str, size: int = 13, anchor: str = "start") -> str:
    """Return a line of text."""
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}">{content}</text>'


def box(x: int, y: int, width: int, height: int, fill: str, stroke: str = "#555555") -> str:
    """Return a filled rectangle."""
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}" stroke="{stroke}"/>'
    )


def draw() -> str:
    """Return the picture."""
    halo_x = LEFT + len(LAYERS) * (WIDTH + GAP) - GAP + 14
    width = halo_x + 150
    height = TOP + ROWS * HEIGHT + 50 + 22 * len(LEGEND)
    own_y = TOP + COLUMN.start * HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" fill="#222222">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        text(LEFT, 24, "A tensor column: a few rows run through all layers of a region", 16),
    ]
    columns = kinds()
    for layer, (name, row_kinds) in enumerate(zip(LAYERS, columns, strict=True)):
        x = LEFT + layer * (WIDTH + GAP)
        parts.append(text(x + WIDTH // 2, TOP - 10, name, anchor="middle"))
        for row, kind in enumerate(row_kinds):
            parts.append(box(x, TOP + row * HEIGHT, WIDTH, HEIGHT, COLORS[kind]))
            if kind != "above" and row < COLUMN.start:
                middle = TOP + row * HEIGHT + HEIGHT * 2 // 3
                parts.append(text(x + WIDTH // 2, middle, "halo", 12, "middle"))
        if layer + 1 < len(LAYERS):
            middle = TOP + HEIGHT * 3 // 2
            parts.append(text(x + WIDTH + GAP // 2, middle - 6, "3x3", 12, "middle"))
            parts.append(text(x + WIDTH + GAP // 2, middle + 12, "→", 18, "middle"))
    parts += [
        f'<line x1="{LEFT - 10}" y1="{own_y}" x2="{halo_x + 140}" y2="{own_y}" '
        'stroke="#b03030" stroke-width="2" stroke-dasharray="6 4"/>',
        text(halo_x, own_y - HEIGHT * 3 + 4, "column of core 1:"),
        text(halo_x, own_y - HEIGHT * 3 + 22, f"rows 0 to {COLUMN.start - 1}"),
        text(halo_x, own_y + HEIGHT + 4, "column of core 2:"),
        text(halo_x, own_y + HEIGHT + 22, f"rows {COLUMN.start} to {COLUMN.stop - 1},"),
        text(halo_x, own_y + HEIGHT + 40, f"in steps of {STEP_ROWS}"),
    ]
    for line, (kind, meaning) in enumerate(LEGEND):
        y = TOP + ROWS * HEIGHT + 24 + 22 * line
        parts.append(box(LEFT, y, 26, 15, COLORS[kind]))
        parts.append(text(LEFT + 36, y + 12, meaning))
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Write the picture, or compare it with the one that is there."""
    parser = argparse.ArgumentParser(description="Draws docs/images/tensor_column.svg.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    if not parser.parse_args().check:
        PICTURE.write_text(draw(), encoding="utf-8")
    elif PICTURE.read_text(encoding="utf-8") != draw():
        raise SystemExit(f"{PICTURE} is out of date: run python docs/draw_column.py")


if __name__ == "__main__":
    main()
