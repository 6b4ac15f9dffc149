// Draws the figures of a page when they come into view, keeps them in the colours of the theme, and shows their data.
//
// A figure in the page is <figure class="rlhf-figure"> with a box of fixed height, its plotly JSON in a script element,
// a caption and a <details> for the table. plotly.js lies beside this file, is named in its
// script element, and is fetched with the first figure.
// Sliders of a figure become range inputs below it, which work by key, by finger and with a screen reader.
"use strict";

(() => {
  const PLOTLY = new URL(document.currentScript.dataset.plotly, document.currentScript.src).href;
  const MAX_ROWS = 1000;
  const NARROW = 560;
  // A figure's columns, in the order in which the table shows them.
  const COLUMNS = ["x", "y", "z", "labels", "values", "r", "theta", "text"];
  const CONFIG = { displaylogo: false, responsive: false, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };

  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const touch = matchMedia("(pointer: coarse)");
  let loading = null;

  function loadPlotly() {
    loading ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = PLOTLY;
      script.onload = () => resolve(window.Plotly);
      script.onerror = () => reject(new Error("plotly.js could not be loaded"));
      document.head.append(script);
    });
    return loading;
  }

  const read = (figure) => JSON.parse(figure.querySelector("script[type='application/json']").textContent);

  // ---- drawing ----

  // What the theme decides. It goes into the template, so that whatever an author has set on a figure still wins.
  function themeLayout() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--rlhf-plot-${name}`).trim();
    const axis = {
      gridcolor: colour("grid"), linecolor: colour("line"), zerolinecolor: colour("line"), tickcolor: colour("line"),
    };
    const scene = { ...axis, backgroundcolor: "rgba(0,0,0,0)" };
    const box = { bgcolor: colour("surface"), bordercolor: colour("line"), font: { color: colour("text") } };
    return {
      font: { color: colour("text"), family: style.getPropertyValue("--rlhf-plot-font").trim() },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      xaxis: axis, yaxis: axis,
      scene: { xaxis: scene, yaxis: scene, zaxis: scene },
      polar: { bgcolor: "rgba(0,0,0,0)", radialaxis: axis, angularaxis: axis },
      legend: { bgcolor: "rgba(0,0,0,0)", font: { color: colour("text") } },
      hoverlabel: box,
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("muted"), activecolor: colour("text") },
      annotationdefaults: { arrowcolor: colour("muted") },
      shapedefaults: { line: { color: colour("muted") } },
      updatemenudefaults: box, sliderdefaults: { ...box, activebgcolor: colour("line") },
    };
  }

  function merge(base, over) {
    const out = { ...base };
    for (const [key, value] of Object.entries(over)) {
      const both = [out[key], value].every((v) => v && typeof v === "object" && !Array.isArray(v));
      out[key] = both ? merge(out[key], value) : value;
    }
    return out;
  }

  // Buttons and sliders of an animation carry their own durations.
  function stopMotion(layout) {
    for (const control of [...(layout.updatemenus ?? []), ...(layout.sliders ?? [])]) {
      for (const step of [...(control.buttons ?? []), ...(control.steps ?? [])]) {
        const options = step.args?.[1];
        if (options && typeof options === "object") options.transition = { duration: 0 };
      }
      control.transition = undefined;
    }
    // Not `{ duration: 0 }`: a frame in the transition's own millisecond would divide 0 by 0 and draw at scale(NaN,NaN).
    delete layout.transition;
  }

  function layoutFor(source, width) {
    const layout = structuredClone(source ?? {});
    const template = layout.template ?? {};
    layout.template = { ...template, layout: merge(template.layout ?? {}, themeLayout()) };
    layout.autosize = true;
    delete layout.width;
    if (layout.sliders) layout.sliders = layout.sliders.filter((slider) => !isPlain(slider));
    layout.uirevision ??= "kept"; // zoom and hidden curves survive a change of the theme
    if (touch.matches) layout.dragmode = false; // a finger on a figure scrolls the page
    if (width < NARROW) {
      const template = layout.template.layout;
      template.font = { ...template.font, size: 12 };
      template.margin = { ...template.margin, l: 40, r: 8 };
    }
    if (calm.matches) stopMotion(layout);
    return layout;
  }

  async function draw(figure) {
    const box = figure.querySelector(".rlhf-plot");
    if (box.dataset.state) return;
    box.dataset.state = "drawing";
    try {
      const Plotly = await loadPlotly();
      const { data, layout, frames } = read(figure);
      // A slider's step changes the data that it is given, so each drawing gets its own.
      const spec = () => ({ data: structuredClone(data), frames, layout: layoutFor(layout, box.clientWidth), config: CONFIG });
      await Plotly.newPlot(box, spec());
      figure.redraw = () => Plotly.react(box, spec()).then(() => figure.restep?.());
      await figure.restep?.();
      box.dataset.state = "drawn";
      watchWidth(figure, box);
    } catch (error) {
      box.dataset.state = "failed";
      box.textContent = `This figure could not be drawn (${error.message}). Its data is below.`;
    }
  }

  function watchWidth(figure, box) {
    let width = box.clientWidth;
    let timer = 0;
    new ResizeObserver(() => {
      if (box.clientWidth === width || box.clientWidth === 0) return;
      width = box.clientWidth;
      clearTimeout(timer);
      timer = setTimeout(figure.redraw, 120);
    }).observe(box);
  }

  // ---- sliders ----

  const METHODS = ["restyle", "relayout", "update"];
  const isPlain = (slider) => slider.steps?.every((step) => METHODS.includes(step.method ?? "restyle"));

  // Range inputs under the plot; `restep` puts the figure, drawn anew, where the inputs stand.
  function addSliders(figure) {
    if (!figure.querySelector("script[type='application/json']").textContent.includes('"sliders"')) return;
    const plain = (read(figure).layout?.sliders ?? []).filter(isPlain);
    if (!plain.length) return;
    const box = figure.querySelector(".rlhf-plot");
    const apply = (slider, at) => {
      const { method = "restyle", args = [] } = slider.steps[at];
      return window.Plotly[method](box, ...structuredClone(args));
    };
    const inputs = plain.map((slider) => {
      const { prefix = "", suffix = "" } = slider.currentvalue ?? {};
      const told = (at) => `${prefix}${slider.steps[at].label}${suffix}`;
      const start = slider.active ?? 0;
      const input = element("input", { type: "range", min: 0, max: slider.steps.length - 1, step: 1, value: start });
      const shown = element("span", { class: "rlhf-slider-value" }, told(start));
      input.setAttribute("aria-label", slider.name ?? (prefix.replace(/[=:\s]+$/, "") || "step"));
      input.setAttribute("aria-valuetext", told(start));
      input.addEventListener("input", () => {
        shown.textContent = told(input.valueAsNumber);
        input.setAttribute("aria-valuetext", told(input.valueAsNumber));
        if (box.dataset.state === "drawn") apply(slider, input.valueAsNumber);
      });
      input.slider = slider;
      return [input, shown];
    });
    figure.restep = async () => {
      for (const [input] of inputs) {
        if (input.valueAsNumber !== (input.slider.active ?? 0)) await apply(input.slider, input.valueAsNumber);
      }
    };
    box.after(element("div", { class: "rlhf-sliders" }, ...inputs.map(([input, shown]) => {
      return element("label", {}, shown, input);
    })));
  }

  // ---- data ----

  const ARRAYS = {
    f8: Float64Array, f4: Float32Array, i4: Int32Array, u4: Uint32Array,
    i2: Int16Array, u2: Uint16Array, i1: Int8Array, u1: Uint8Array, u1c: Uint8ClampedArray,
  };

  // plotly.py writes numpy arrays as base64: {dtype, bdata, shape}.
  function decode(value) {
    if (!value || typeof value !== "object" || value.bdata === undefined) return value;
    const bytes = Uint8Array.from(atob(value.bdata), (c) => c.charCodeAt(0));
    const flat = Array.from(new ARRAYS[value.dtype](bytes.buffer));
    const shape = String(value.shape ?? flat.length).split(",").map(Number);
    if (shape.length < 2) return flat;
    const columns = shape[shape.length - 1];
    return Array.from({ length: flat.length / columns }, (_, i) => flat.slice(i * columns, (i + 1) * columns));
  }

  function columnsOf(trace) {
    const found = {};
    for (const key of COLUMNS) {
      const value = decode(trace[key]);
      if (Array.isArray(value)) found[key] = value;
    }
    for (const key of ["error_x", "error_y"]) {
      const value = decode(trace[key]?.array);
      if (Array.isArray(value)) found[key] = value;
    }
    if (found.z && Array.isArray(found.z[0])) return gridColumns(found);
    const length = Math.max(0, ...Object.values(found).map((v) => v.length));
    // A trace may say where it starts and how far it steps instead of listing a coordinate.
    for (const [key, other] of [["x", "y"], ["y", "x"]]) {
      const spaced = trace[`${key}0`] !== undefined || trace[`d${key}`] !== undefined;
      if (!found[key] && found[other] && spaced) {
        found[key] = Array.from({ length }, (_, i) => Number(trace[`${key}0`] ?? 0) + i * Number(trace[`d${key}`] ?? 1));
      }
    }
    return found;
  }

  // A heat map's z has a row for each y and a column for each x.
  function gridColumns({ x, y, z, text }) {
    const out = { x: [], y: [], z: [] };
    const words = Array.isArray(text?.[0]) ? text : null;
    if (words) out.text = [];
    z.forEach((row, i) => row.forEach((value, j) => {
      out.x.push(x ? x[j] : j);
      out.y.push(y ? y[i] : i);
      out.z.push(value);
      if (words) out.text.push(words[i]?.[j] ?? "");
    }));
    return out;
  }

  function heading(key, { data, layout = {} }) {
    if (key === "z") {
      const bars = [...data.map((trace) => trace.colorbar), layout.coloraxis?.colorbar];
      return bars.find((bar) => bar?.title?.text)?.title.text ?? "z";
    }
    if (key === "error_x" || key === "error_y") return `± ${heading(key.slice(-1), { data, layout })}`;
    const axes = Object.keys(layout).filter((name) => name.startsWith(`${key}axis`));
    const titles = new Set(axes.map((name) => layout[name].title?.text).filter(Boolean));
    return titles.size === 1 ? [...titles][0].replace(/<[^>]*>/g, " ") : key;
  }

  // The figure's data as a heading row and the rows below it.
  function tabulate(figure) {
    const traces = figure.data.map(columnsOf);
    const keys = [...COLUMNS, "error_x", "error_y"].filter((key) => traces.some((t) => t[key]));
    const named = figure.data.length > 1 || figure.data[0]?.name;
    const rows = traces.flatMap((trace, i) => {
      const name = figure.data[i].name ?? `series ${i + 1}`;
      const length = Math.max(0, ...Object.values(trace).map((v) => v.length));
      return Array.from({ length }, (_, j) => [...(named ? [name] : []), ...keys.map((key) => trace[key]?.[j] ?? "")]);
    });
    return { head: [...(named ? ["series"] : []), ...keys.map((key) => heading(key, figure))], rows };
  }

  const shown = (value) => (typeof value === "number" ? String(Number(value.toPrecision(6))) : String(value));
  const quoted = (value) => (/[",\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function download(table, name) {
    const text = [table.head, ...table.rows].map((row) => row.map(quoted).join(",")).join("\n");
    const url = URL.createObjectURL(new Blob([text + "\n"], { type: "text/csv" }));
    element("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  function fillTable(figure) {
    const place = figure.querySelector(".rlhf-table");
    if (place.childElementCount) return;
    const table = tabulate(read(figure));
    const kind = (value) => (typeof value === "number" ? { class: "number" } : {});
    const head = element("tr", {}, ...table.head.map((text, i) => {
      return element("th", { scope: "col", ...kind(table.rows[0]?.[i]) }, text);
    }));
    const rows = table.rows.slice(0, MAX_ROWS).map((row) => {
      return element("tr", {}, ...row.map((value) => element("td", kind(value), shown(value))));
    });
    const grid = element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
    const scroller = element("div", { class: "rlhf-scroll", tabindex: "0", role: "region", "aria-label": "Data" }, grid);
    const button = element("button", { type: "button" }, "Download as CSV");
    const page = location.pathname.split("/").pop().replace(/\.html$/, "") || "page";
    button.addEventListener("click", () => download(table, `${page}-${figure.id}.csv`));
    const count = table.rows.length.toLocaleString("en");
    const note = table.rows.length > MAX_ROWS
      ? `The first ${MAX_ROWS.toLocaleString("en")} of ${count} rows; the file has all of them.` : `${count} rows.`;
    place.append(element("p", { class: "rlhf-note" }, note, " ", button), scroller);
  }

  // ---- the page ----

  const figures = [...document.querySelectorAll(".rlhf-figure")];
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "400px" });

  for (const figure of figures) {
    addSliders(figure);
    seen.observe(figure);
    const details = figure.querySelector(".rlhf-data");
    details.addEventListener("toggle", () => details.open && fillTable(figure));
  }
  addEventListener("beforeprint", () => figures.forEach(draw));
  new MutationObserver(() => figures.forEach((figure) => figure.redraw?.()))
    .observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
})();
