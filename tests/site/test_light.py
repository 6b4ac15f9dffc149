"""What makes pages light, piece by piece: pruned styles, joined scripts, parts of fonts and of plotly.js."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from pathlib import Path

import plotly.graph_objects as go
import pydata_sphinx_theme
import pytest
from fontTools.ttLib import TTFont
from site_pages import SITE

from rlhf_utils.book import accessible, bundle, figures, fonts, styles, vendor

ASSETS = Path(__file__).resolve().parents[2] / "book" / "_assets" / "static"

CSS = """/* a remark */
.kept, .gone > p { color: red; }
.gone:hover, a.gone.kept { color: blue }
p:not(.gone) { margin: 0 }
.made-up-3 { margin: 1px }
@media (max-width: 3px) { .gone { color: red } .kept::after { content: "}" } }
@media print { .gone { color: red } }
@font-face { font-family: "F"; src: url(f.woff2) }
@keyframes spin { to { rotate: 1turn } }
"""


def test_rules_without_an_element_are_left_out():
    css = styles.pruned(CSS, {"kept", "made-"}, lambda face: "FACE\n")
    assert css.splitlines() == [
        ".kept{color: red;}",
        "p:not(.gone){margin: 0}",
        ".made-up-3{margin: 1px}",
        "@media (max-width: 3px){",
        '.kept::after{content: "}"}',
        "}",
        "FACE",
        "@keyframes spin { to { rotate: 1turn } }",
    ]


def test_styles_are_joined_with_their_imports_and_addresses(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "first.css").write_text("a { background: url(a.png) }", encoding="utf8")
    (tmp_path / "deep" / "second.css").write_text(
        '@import "../first.css"; b { background: url("b.png?v=1"), url(data:image/png;base64,x) }', encoding="utf8"
    )
    css = styles.joined([tmp_path / "deep" / "second.css"], tmp_path)
    assert 'a { background: url("a.png") }' in css
    assert 'b { background: url("deep/b.png?v=1"), url(data:image/png;base64,x) }' in css


PAGE = """<head>
<link rel="preload" as="script" href="../_static/scripts/one.js?v=1" />
<link rel="stylesheet" href="../_static/styles/sphinx-book-theme.css?v=3" />
<link rel="stylesheet" type="text/css" href="../_static/b.css" />
<script src="../_static/documentation_options.js"></script>
<script src="../_static/one.js?v=1"></script>
<script>let x = 1;</script>
<script defer="defer" src="../_static/two.js"></script>
<script data-plotly="p.js" src="../_static/figures.js"></script>
<script src="../searchindex.js"></script>
</head>"""


def test_a_page_loads_the_joined_files_once_and_what_is_its_own_later():
    shared = ["_static/styles/sphinx-book-theme.css", "_static/b.css", "_static/one.js", "_static/two.js"]
    page = bundle.rewritten(PAGE, shared, "all.css", "all.js", "const O = {};")
    assert page.split("\n")[1:-1] == [
        '    <link rel="stylesheet" href="../_static/all.css"/>',
        "<script>const O = {};</script>",
        '    <script defer src="../_static/all.js"></script>',
        "<script>let x = 1;</script>",
        '<script defer data-plotly="p.js" src="../_static/figures.js"></script>',
    ]
    assert "searchindex.js" in bundle.rewritten(PAGE + '<div id="search-results">', shared, "a", "b", "")


def test_the_themes_script_no_longer_measures_boxes_one_by_one():
    theme = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static" / "scripts"
    script = (theme / "pydata-sphinx-theme.js").read_text(encoding="utf8")
    assert len(bundle.quick(script)) == len(script) + len("return;")
    assert re.search(r'\{return;const \w+=\(\)=>\{document\.querySelectorAll\(\["pre"', bundle.quick(script))


def test_a_part_of_the_font_has_the_signs_of_the_formulas_and_their_larger_forms(tmp_path):
    page = "<p>ü</p><math><mi>x</mi><mo>∑</mo><msqrt><mi>sin</mi></msqrt><annotation>\\frac</annotation></math>"
    signs = fonts.math_signs([page])
    assert {"𝑥", "x", "∑", "√"} <= signs  # the root's sign stands in no text
    assert "√" not in fonts.math_signs(["<math><mi>x</mi></math>"])
    assert not {"ü", "𝑠"} & signs
    font = ASSETS / "fonts" / "book-math.woff2"
    data = fonts.part(font, signs)
    assert len(data) < font.stat().st_size / 4
    part = TTFont(io.BytesIO(data))
    assert {ord(sign) for sign in signs} <= part.getBestCmap().keys()
    assert len(part["MATH"].table.MathVariants.VertGlyphConstruction) > 3


def test_the_site_has_all_of_the_font_that_its_formulas_use(site):
    pages = [path.read_text(encoding="utf8") for path in SITE.rglob("*.html")]
    whole, part = (TTFont(folder / "fonts" / "book-math.woff2").getBestCmap() for folder in (ASSETS, SITE / "_static"))
    assert {ord(sign) for sign in fonts.math_signs(pages)} & whole.keys() <= part.keys()


def test_a_font_of_icons_goes_into_the_style_sheet():
    face = "@font-face{font-family:Icons;src:url(fonts/book-math.woff2) format('woff2'),url(x.ttf)}"
    assert fonts.icon_signs('.a:before{content:"\\f015"} .b{content:"\\201C"}') == {"\uf015"}
    assert fonts.inline(face, ASSETS, set()) == ""
    rule = fonts.inline(face, ASSETS, {"x"})
    assert rule.startswith('@font-face{font-family:Icons;src:url("data:font/woff2;base64,')
    assert "ttf" not in rule


@pytest.fixture
def npm(monkeypatch):
    """Stands for npm: what it was asked, and archives with a file that says so; broken on demand."""
    asked: list[str] = []

    def run(command, cwd, **options):
        asked.append(command[2])
        if broken:
            raise subprocess.CalledProcessError(1, command)
        name = command[2].split("@")[0].removeprefix("plotly.js-").removesuffix("-dist-min")
        with tarfile.open(Path(cwd) / "it.tgz", "w:gz") as archive:
            member = tarfile.TarInfo(f"package/plotly-{name}.min.js")
            member.size = len(command[2])
            archive.addfile(member, io.BytesIO(command[2].encode()))

    broken: list[bool] = []
    monkeypatch.setenv(vendor.NPM, "npm")
    monkeypatch.setattr(subprocess, "run", run)
    return asked, broken


def test_the_smallest_plotly_is_fetched_once(npm, tmp_path):
    asked, _ = npm
    version = vendor.version()
    small = vendor.smallest({"scatter", "bar"}, tmp_path)
    assert small.read_text() == f"plotly.js-basic-dist-min@{version}"
    assert vendor.smallest({"heatmap"}, tmp_path).read_text() == f"plotly.js-cartesian-dist-min@{version}"
    assert vendor.smallest({"scatter"}, tmp_path) == small
    assert vendor.smallest({"scatter", "scatter3d"}, tmp_path) == vendor.whole()
    assert len(asked) == 2


def test_without_npm_or_registry_the_whole_plotly_serves(npm, tmp_path, monkeypatch):
    asked, broken = npm
    broken.append(True)
    assert vendor.smallest({"scatter"}, tmp_path) == vendor.whole()
    assert len(asked) == 1
    monkeypatch.setenv(vendor.NPM, "")
    assert vendor.smallest({"scatter"}, tmp_path) == vendor.whole()
    assert len(asked) == 1
    assert vendor.whole().exists()


def test_a_book_without_npm_is_whole(built):
    site = built[0] / "_build" / "html"
    page = (site / "lessons" / "01_figures.html").read_text(encoding="utf8")
    assert 'data-plotly="plotly.min.js"' in page
    assert (site / "_static" / "plotly.min.js").read_bytes() == vendor.whole().read_bytes()


def test_numbers_of_a_figure_are_as_long_as_they_are_shown():
    figure = json.loads(go.Figure(go.Scatter(x=[1, 2], y=[1 / 3, 12345678.9]), layout={"height": 300}).to_json())
    short = figures.rounded(figure)
    assert short["data"][0]["x"] == [1, 2]
    assert short["data"][0]["y"] == [0.333333, 12345700.0]
    assert short["layout"]["height"] == 300


def test_mends():
    empty = '<tr><th class="head"><p></p></th><th class="head text-right"><p>a</p></th></tr>'
    assert accessible.mended(empty) == '<tr><td class="head"></td><th class="head text-right"><p>a</p></th></tr>'
    signs = "<msub><mi>r</mi><mi>t</mi></msub><annotation>r_t</annotation>"
    formula = f'<th class="head"><p><math display="inline">{signs}</math></p></th>'
    assert '<math aria-label="r t" display="inline">' in accessible.mended(formula)
    assert "aria-label" not in accessible.mended(formula.replace("<p>", "<p>the "))
    arrow = '<a class="reference internal" href="a.html">Part</a><details><summary><span></span></summary>'
    assert '<summary aria-label="Pages of “Part”">' in accessible.mended(arrow)
    call = '<dl>\n<dd><em class="sig-param">x</em>,</dd>\n</dl>'
    assert accessible.mended(call) == '<ul class="rlhf-parameters">\n<li><em class="sig-param">x</em>,</li>\n</ul>'
