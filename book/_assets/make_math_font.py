"""Makes the book's mathematics font: a part of Latin Modern Math, as WOFF2, with its MATH table.

Run by hand when a formula needs a sign that the font lacks (``pip install fonttools brotli``; the source is
in Debian's package ``fonts-lmodern``):

    python book/_assets/make_math_font.py latinmodern-math.otf book/_assets/static/fonts/book-math.woff2
"""

from __future__ import annotations

import sys

from fontTools import subset

NAME = "Book Math"
# First and last code point of ranges: letters, Greek, punctuation, arrows, operators, styled alphabets.
RANGES = [
    (0x20, 0x7E), (0xA0, 0xFF), (0x131, 0x131), (0x237, 0x237), (0x2C6, 0x2DD), (0x300, 0x30C),
    (0x332, 0x338), (0x391, 0x3C9), (0x3D1, 0x3D6), (0x3F0, 0x3F5), (0x2000, 0x203E), (0x2044, 0x2044),
    (0x2057, 0x2064), (0x20D6, 0x20D7), (0x2102, 0x2135), (0x2190, 0x2199), (0x21A0, 0x21A9),
    (0x21BC, 0x21D5), (0x2200, 0x22FF), (0x2308, 0x230B), (0x23B4, 0x23B5), (0x23DC, 0x23E1),
    (0x25A0, 0x25FF), (0x27E6, 0x27EF), (0x27F5, 0x27FF), (0x2A00, 0x2A06), (0x2A7D, 0x2A7E),
    (0x2A8F, 0x2AB0), (0x1D400, 0x1D4CF), (0x1D538, 0x1D56B), (0x1D5A0, 0x1D5D3), (0x1D6A4, 0x1D755),
    (0x1D7CE, 0x1D7E1),
]  # fmt: skip


def make(source: str, target: str) -> None:
    """Write the part of the font ``source`` that formulas use to ``target``, under a name of its own."""
    options = subset.Options(layout_features=["*"], flavor="woff2", hinting=False, name_IDs=["*"])
    font = subset.load_font(source, options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=[code for first, last in RANGES for code in range(first, last + 1)])
    subsetter.subset(font)
    # The font's licence asks for changed versions to be renamed.
    for record in font["name"].names:
        if record.nameID in (1, 4, 16):
            record.string = NAME
        elif record.nameID == 6:
            record.string = NAME.replace(" ", "")
    font["CFF "].cff.fontNames = [NAME.replace(" ", "")]
    subset.save_font(font, target, options)


if __name__ == "__main__":
    make(*sys.argv[1:3])
