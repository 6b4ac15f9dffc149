// One slide at a time on a wide screen; arrow keys, Page Up and Down, space, Home and End move. A second window follows along.
(() => {
  const root = document.documentElement;
  const slides = [...document.querySelectorAll(".slide")];
  const told = document.querySelector("nav [role=status]");
  const wide = matchMedia("(min-width: 700px)");
  let now = Math.max(0, slides.findIndex((slide) => `#${slide.id}` === location.hash));
  let other = location.search === "?speaker" ? opener : null; // the window that shows the same slide
  if (other) root.classList.add("speaker");

  const show = (place, { focus = true, tell = true } = {}) => {
    now = Math.min(slides.length - 1, Math.max(0, place));
    slides.forEach((slide, at) => slide.classList.toggle("now", at === now));
    told.textContent = `${now + 1} of ${slides.length}`;
    if (!root.classList.contains("one")) return;
    history.replaceState(null, "", `#${slides[now].id}`);
    slides[now].scrollTop = 0;
    if (focus) slides[now].focus({ preventScroll: true });
    if (tell) other?.postMessage({ slide: now }, "*");
  };
  const actions = {
    previous: () => show(now - 1),
    next: () => show(now + 1),
    first: () => show(0),
    last: () => show(slides.length - 1),
    notes: () => root.classList.toggle("told"),
    theme: () => (root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark"),
    speaker: () => {
      if (!other || other.closed) other = open(`${location.href.split(/[?#]/)[0]}?speaker#${slides[now].id}`, "speaker", "width=900,height=700");
    },
    all: () => {
      root.classList.toggle("one");
      slides[now].scrollIntoView();
      reach();
      show(now, { focus: root.classList.contains("one") });
    },
  };
  const keys = {
    ArrowRight: "next", ArrowDown: "next", PageDown: "next", " ": "next",
    ArrowLeft: "previous", ArrowUp: "previous", PageUp: "previous", Home: "first", End: "last",
    n: "notes", s: "speaker", d: "theme", a: "all", Escape: "all",
  };
  addEventListener("keydown", (event) => {
    const inControl = event.target.closest("button, summary, a") && (event.key === " " || event.key === "Enter");
    if (event.ctrlKey || event.metaKey || event.altKey || inControl || !(event.key in keys)) return;
    if (!root.classList.contains("one") && !["a", "Escape", "d"].includes(event.key)) return;
    event.preventDefault();
    actions[keys[event.key]]();
  });
  document.querySelector("nav").addEventListener("click", ({ target }) => actions[target.dataset.do]?.());
  addEventListener("message", ({ source, data }) => {
    if (source === other && Number.isInteger(data?.slide)) show(data.slide, { tell: false });
  });
  addEventListener("hashchange", () => show(slides.findIndex((slide) => `#${slide.id}` === location.hash)));
  document.querySelectorAll("table").forEach((table) => {
    const box = document.createElement("div");
    box.className = "scroller";
    table.replaceWith(box);
    box.append(table);
  });
  document.querySelectorAll(".notes").forEach((notes) => (notes.open = wide.matches));
  document.querySelector("nav").hidden = false;
  // What is wider than its place can be scrolled by keys, too.
  const reach = () => {
    for (const box of document.querySelectorAll(".formula, .scroller, pre")) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  addEventListener("resize", reach);
  document.fonts.ready.then(reach);
  // A phone shows all slides below one another.
  const arrange = () => {
    root.classList.toggle("one", wide.matches);
    show(now, { focus: false });
    reach();
  };
  wide.addEventListener("change", arrange);
  arrange();
})();
