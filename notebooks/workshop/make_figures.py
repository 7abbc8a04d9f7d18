"""Writes the figures for slides as SVG: ``python notebooks/workshop/make_figures.py``."""

from pathlib import Path

from circuits.plots.style import BASELINE, INK, SIGN_COLOURS

TOWARDS, AWAY = SIGN_COLOURS["towards"], SIGN_COLOURS["away"]


def text(x: int, y: int, words: str, colour: str = INK, anchor: str = "middle") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{words}</text>'


def bar(x: int, y: int, width: int, height: int, colour: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="3" fill="{colour}"/>'


def ablation() -> str:
    """What four heads add, and the sum with and without one of them."""
    parts, heights = [text(320, 30, "projection on the direction")], (60, 110, -40, 20)
    for head, height in enumerate(heights):
        colour = TOWARDS if height > 0 else AWAY
        parts.append(bar(60 + 80 * head, 200 - max(height, 0), 50, abs(height), colour))
        parts.append(text(85 + 80 * head, 270, f"H{head}"))
    for x, height, words in ((420, 150, "all heads"), (540, 40, "without H1")):
        parts += [bar(x, 200 - height, 60, height, INK), text(x + 30, 270, words)]
    return "\n".join(parts)


def patching() -> str:
    """Readouts of clean, corrupt and patched runs on one axis."""
    parts = []
    rows = (
        ("noising: clean run, corrupt value", 520, 330),
        ("denoising: corrupt run, clean value", 120, 360),
    )
    for row, (words, base, patched) in enumerate(rows):
        y = 90 + 120 * row
        parts += [text(320, y - 35, words), bar(100, y, 440, 2, INK)]
        parts += [bar(min(base, patched), y - 6, abs(base - patched), 14, TOWARDS)]
        parts += [text(120, y + 32, "corrupt"), text(520, y + 32, "clean")]
        parts += [text(patched, y + 32, "patched", TOWARDS)]
    return "\n".join(parts)


def faithfulness() -> str:
    """The scale, random circuits and a circuit on it."""
    parts = [bar(80, 150, 480, 2, INK), text(80, 185, "0"), text(560, 185, "1")]
    parts += [text(80, 210, "empty circuit"), text(560, 210, "whole model")]
    parts += [bar(60 + 9 * i, 150 - h, 7, h, BASELINE) for i, h in enumerate((10, 34, 60, 42, 16))]
    parts += [text(95, 70, "random circuits", BASELINE), bar(510, 90, 7, 60, TOWARDS)]
    return "\n".join([*parts, text(513, 70, "circuit", TOWARDS)])


def figures() -> dict[str, str]:
    """File name -> SVG."""
    start = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 300" '
    start += 'font-family="sans-serif" font-size="16">'
    return {
        f"{make.__name__}.svg": f"{start}\n<title>{make.__doc__}</title>\n{make()}\n</svg>\n"
        for make in (ablation, patching, faithfulness)
    }


def main() -> None:
    folder = Path(__file__).parent / "figures"
    folder.mkdir(exist_ok=True)
    for name, svg in figures().items():
        (folder / name).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
