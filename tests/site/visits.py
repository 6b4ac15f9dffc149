"""One visit to a page in a browser: it is walked through from top to bottom, and all that is wrong is written down."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from barriers import AXE

MODES = ("light", "dark")
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]
MAX_SHIFT = 0.02

# How far the page's parts have moved without a reader's doing, as web vitals counts it.
COUNT_SHIFT = """window.shift = 0; new PerformanceObserver(list => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
}).observe({type: 'layout-shift', buffered: true});"""

# Brings every figure into view until it is drawn, or has failed to be.
WALK = """async () => {
  const frame = () => new Promise(requestAnimationFrame);
  for (const figure of document.querySelectorAll('.rlhf-figure')) {
    const box = figure.querySelector('.rlhf-plot'), end = performance.now() + 20000;
    if (!box.checkVisibility()) continue;
    figure.scrollIntoView({block: 'center', behavior: 'instant'});
    while (!['drawn', 'failed'].includes(box.dataset.state) && performance.now() < end) await frame();
  }
  scrollTo({top: document.documentElement.scrollHeight, behavior: 'instant'});
  await frame();
  scrollTo({top: 0, behavior: 'instant'});
  await document.fonts.ready;
  await frame();
}"""

OPEN_ALL = """() => {
  document.querySelectorAll('details:not(.rlhf-data)').forEach(details => details.open = true);
  document.querySelectorAll('.toggle-hidden .toggle-button').forEach(button => button.click());
}"""

# Figures are drawn anew a little after a change of width.
SETTLED = """() => [...document.querySelectorAll('.rlhf-plot[data-state=drawn]')].every(
  box => box.clientWidth === 0 || Math.abs(box._fullLayout.width - box.clientWidth) < 2)"""

# What the page's figures hold in their JSON, and what plotly has drawn of it.
FIGURES = """() => [...document.querySelectorAll('.rlhf-figure')].map(figure => {
  const box = figure.querySelector('.rlhf-plot');
  const told = JSON.parse(figure.querySelector('script').textContent).data.length;
  return {id: figure.id, told, drawn: box.data?.length ?? 0, full: box._fullData?.length ?? 0,
          painted: box.querySelectorAll('.main-svg, canvas').length};
}).filter(it => !(it.told && it.told === it.drawn && it.told === it.full && it.painted))
  .map(it => JSON.stringify(it))"""

# Formulas without size, with an error, in another font, or left as TeX, and roots without a sign, which are as wide as
# what stands under them.
FORMULAS = """() => {
  const formulas = [...document.querySelectorAll('article math')].filter(math => math.checkVisibility());
  const bad = formulas.filter(math => {
    const box = math.getBoundingClientRect();
    const width = element => element.getBoundingClientRect().width;
    const bare = [...math.querySelectorAll('msqrt')].some(root =>
      width(root) < 4 + [...root.children].reduce((sum, child) => sum + width(child), 0));
    return box.width === 0 || box.height === 0 || bare || math.querySelector('merror');
  }).map(math => math.textContent.slice(0, 40));
  const font = [...document.fonts].some(face => /Book Math/.test(face.family) && face.status === 'loaded');
  if (formulas.length && !font) bad.push('the font of formulas is not there');
  const text = [...document.querySelectorAll('article :is(p, li, td, figcaption)')].map(element => {
    const copy = element.cloneNode(true);
    copy.querySelectorAll('code, pre, math, script').forEach(inner => inner.remove());
    return copy.textContent;
  }).join('\\n');
  return [...bad, ...(text.match(/\\$\\$|\\\\(?:frac|text|mathbb|sum|log|pi|beta)\\b/g) ?? [])];
}"""

# Punctuation that stands on another line than the formula before it.
ASTRAY = """() => [...document.querySelectorAll('article .math-inline')].filter(formula => {
  const text = formula.nextSibling;
  if (text?.nodeType !== Node.TEXT_NODE) return false;
  const mark = text.data.search(/[.,;:!?)]/);
  if (mark < 0 || /\\w|\\s/.test(text.data.slice(0, mark))) return false;
  const place = document.createRange();
  place.setStart(text, mark); place.setEnd(text, mark + 1);
  const box = place.getBoundingClientRect();
  return box.width > 0 && box.left < formula.getBoundingClientRect().left;
}).map(formula => formula.textContent.slice(0, 40))"""

TOO_WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"

# Opens the table of each figure: its rows, and whether there is a digit in the first fifty.
TABLES = """async () => {
  const found = [];
  for (const figure of document.querySelectorAll('.rlhf-figure')) {
    const details = figure.querySelector('.rlhf-data'), end = performance.now() + 5000;
    details.open = true;
    while (!details.querySelector('tbody tr') && performance.now() < end) await new Promise(requestAnimationFrame);
    const rows = [...details.querySelectorAll('tbody tr')];
    const digits = rows.slice(0, 50).some(row => /\\d/.test(row.textContent));
    details.open = false;
    const bad = !rows.length || rows.length > 1000 || !digits;
    if (bad) found.push(`${figure.id}: ${rows.length} rows, digits: ${digits}`);
  }
  return found;
}"""

# Boxes of a drawing's lines of text, in pixels relative to the drawing, and the size of their letters.
TEXT_BOXES = """() => [...document.querySelectorAll('.rlhf-drawing')].map(drawing => {
  const frame = drawing.getBoundingClientRect(), scale = frame.width / drawing.viewBox.baseVal.width;
  return {label: drawing.getAttribute('aria-label'), width: frame.width, height: frame.height,
          texts: [...drawing.querySelectorAll('text')].map(text => {
    const box = text.getBoundingClientRect();
    return {says: text.textContent, left: box.left - frame.left, right: box.right - frame.left,
            top: box.top - frame.top, bottom: box.bottom - frame.top,
            size: parseFloat(getComputedStyle(text).fontSize) * scale};
  })};
})"""

# Thousands of words in code look like one another: one of each kind stays an element, the others become text, and a
# formula becomes one word. The time that axe-core takes grows with the elements.
ONE_OF_EACH_KIND = """() => {
  const seen = new Set();
  for (const word of document.querySelectorAll('pre span:not(:has(*))')) {
    const around = ['.cell_input', '.cell_output', '.admonition', '.sig', 'a', 'details'];
    const places = around.filter(it => word.closest(it));
    const kind = [word.className, ...places].join();
    if (seen.has(kind)) word.replaceWith(word.textContent);
    seen.add(kind);
  }
  document.querySelectorAll('pre').forEach(block => block.normalize());
  document.querySelectorAll('math annotation').forEach(source => source.remove());
  for (const formula of document.querySelectorAll('math')) {
    const word = document.createElementNS(formula.namespaceURI, 'mtext');
    word.textContent = formula.textContent;
    formula.replaceChildren(word);
  }
}"""


@dataclass
class Visit:
    """What a visit has found.

    Attributes:
        problems: what is wrong with the page, a line each.
        barriers: what axe-core found; ``None`` if there is no axe-core.
        size: bytes that came over the wire until all figures were drawn, with nothing in the browser's cache.
        requests: how many requests that took.
        shift: how far the page's parts moved by themselves.
    """

    problems: list[str] = field(default_factory=list)
    barriers: list[str] | None = None
    size: int = 0
    requests: int = 0
    shift: float = 0.0


class _Wire:
    """Counts a page's requests and the bytes of the answers, without the browser's cache."""

    def __init__(self, page: Any) -> None:
        self._sent: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._page = page
        session = page.context.new_cdp_session(page)
        session.on("Network.requestWillBeSent", lambda e: self._sent.update({e["requestId"]: e["request"]["url"]}))
        session.on("Network.loadingFinished", lambda e: self._sizes.update({e["requestId"]: e["encodedDataLength"]}))
        session.send("Network.enable")
        session.send("Network.setCacheDisabled", {"cacheDisabled": True})

    def read(self) -> tuple[int, int]:
        """Bytes and requests so far, once all answers are there."""
        wanted = {key for key, url in self._sent.items() if not url.startswith(("data:", "blob:"))}
        for _ in range(100):
            if wanted <= self._sizes.keys():
                break
            self._page.wait_for_timeout(20)
        return sum(self._sizes.get(key, 0) for key in wanted), len(wanted)


def watch(page: Any, address: str) -> list[str]:
    """A list that fills with what a page complains of, and with its requests to other hosts."""
    troubles: list[str] = []

    def foreign(request: Any) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            troubles.append(f"request to another host: {request.url}")

    page.on("pageerror", lambda error: troubles.append(f"exception: {error}"))
    page.on("console", lambda message: troubles.append(f"console: {message.text}") if message.type == "error" else None)
    page.on("request", foreign)
    page.on(
        "response", lambda answer: troubles.append(f"{answer.status}: {answer.url}") if answer.status > 399 else None
    )
    return troubles


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two lines of text cover one another by more than the empty rim of their boxes."""
    wide = min(one["right"], other["right"]) - max(one["left"], other["left"])
    high = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])
    return wide > 2 and high > 0.35 * min(one["bottom"] - one["top"], other["bottom"] - other["top"])


def _drawings(page: Any) -> list[str]:
    """What of the drawings' text can't be read on a phone."""
    found = []
    for drawing in page.evaluate(TEXT_BOXES):
        texts = drawing["texts"]
        found += [f"small: {t['says']}" for t in texts if t["size"] < 9]
        cut = [t for t in texts if t["left"] < -1 or t["right"] > drawing["width"] + 1 or t["top"] < -2]
        found += [f"cut: {t['says']}" for t in cut]
        pairs = [(a, b) for i, a in enumerate(texts) for b in texts[i + 1 :] if _overlap(a, b)]
        found += [f"one over the other: {a['says']} / {b['says']}" for a, b in pairs]
    return found


def _as_phone(page: Any, visit: Visit, mode: str) -> None:
    wide = page.evaluate(TOO_WIDE)
    visit.problems += [f"{wide} px wider than a phone"] * (wide > 0)
    visit.problems += [f"astray after a formula: {it}" for it in page.evaluate(ASTRAY)]
    if mode == "light":  # letters have the same size in both modes
        visit.problems += [f"drawing: {it}" for it in _drawings(page)]


def _as_desk(page: Any, visit: Visit, mode: str) -> None:
    visit.problems += [f"figure not drawn: {it}" for it in page.evaluate(FIGURES)]
    visit.problems += [f"formula: {it}" for it in page.evaluate(FORMULAS)]
    if mode == "light":  # a table is the same in both modes
        visit.problems += [f"table: {it}" for it in page.evaluate(TABLES)]


def look(context: Any, mode: str, address: str, name: str, axe: str | None) -> Visit:
    """Visit a page; in light mode as one comes on a desk and then on a phone, in dark mode the other way round."""
    visit = Visit()
    page = context.new_page()
    troubles = watch(page, address)
    wire = _Wire(page) if mode == "light" else None
    first, second = (DESK, PHONE) if mode == "light" else (PHONE, DESK)
    page.set_viewport_size(first)
    page.goto(address + name)
    page.evaluate(WALK)
    visit.shift = page.evaluate("window.shift")
    visit.problems += [f"parts move by {visit.shift:.3f} at a width of {first['width']}"] * (visit.shift > MAX_SHIFT)
    if wire is not None:
        visit.size, visit.requests = wire.read()
    if page.evaluate("document.documentElement.dataset.theme") != mode:
        visit.problems.append(f"the page isn't {mode}")
    page.evaluate(OPEN_ALL)
    page.evaluate(WALK)
    for size in (first, second):
        if size is second:
            page.set_viewport_size(second)
            page.wait_for_function(SETTLED)
        if size is PHONE:
            _as_phone(page, visit, mode)
        else:
            _as_desk(page, visit, mode)
    if axe is not None:
        page.evaluate(ONE_OF_EACH_KIND)
        page.evaluate(axe)
        visit.barriers = page.evaluate(AXE)
    visit.problems += troubles
    page.close()
    return visit


class Eye:
    """A browser in a thread of its own that looks at pages in one mode."""

    def __init__(self, mode: str, executable: str) -> None:
        self._mode = mode
        self._pool = ThreadPoolExecutor(1)
        self._ahead: list[Future[Visit]] = []
        self._pool.submit(self._begin, executable).result()

    def _begin(self, executable: str) -> None:
        from playwright.sync_api import sync_playwright

        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        self._context = self._browser.new_context(color_scheme=self._mode, reduced_motion="reduce")
        self._context.add_init_script(COUNT_SHIFT)

    def look(self, address: str, name: str, axe: str | None) -> Future[Visit]:
        """What is seen on a page, when the eye has come to it."""
        self._ahead.append(self._pool.submit(look, self._context, self._mode, address, name, axe))
        return self._ahead[-1]

    def _end(self) -> None:
        self._browser.close()
        self._playwright.stop()

    def close(self) -> None:
        """Stop looking, also at pages not yet looked at."""
        for visit in self._ahead:
            visit.cancel()
        self._pool.submit(self._end).result()
        self._pool.shutdown()
