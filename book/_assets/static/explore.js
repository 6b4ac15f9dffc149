// Explorable figures: policies at several prices, one update of PPO token by token, a training run look by look.
//
// Each section on the page carries its own data, computed by experiments/explorables.py. Nothing here is trained or sampled;
// what is computed are averages, histograms and the sums behind one number. Drawings are SVG, in the page's colours.
"use strict";

(() => {
  const { element, svg, math, button, details, fixed, sum, mean, error } = alive;

  // ---- small helpers ----

  const quantile = (values, share) => [...values].sort((a, b) => a - b)[Math.round(share * (values.length - 1))];
  const root = (value) => Math.sign(value) * Math.sqrt(Math.abs(value));
  const same = (value) => value;

  function table(head, rows, label) {
    return element("div", { class: "rlhf-scroll", tabindex: "0", role: "region", "aria-label": label },
      element("table", {}, element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { scope: "col" }, text)))),
        element("tbody", {}, ...rows.map(([first, ...rest]) => element("tr", {}, element("th", { scope: "row" }, first),
          ...rest.map((text) => element("td", { class: "number" }, text)))))));
  }

  // Words of a text, each with whether the other text has it at its place in the longest common sequence.
  function compared(text, other) {
    const a = text.split(" "), b = other.split(" ");
    const longest = Array.from({ length: a.length + 1 }, () => new Array(b.length + 1).fill(0));
    for (let i = a.length - 1; i >= 0; i--) {
      for (let j = b.length - 1; j >= 0; j--) {
        longest[i][j] = a[i] === b[j] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
      }
    }
    const words = [];
    for (let i = 0, j = 0; i < a.length; ) {
      if (j < b.length && a[i] === b[j]) { words.push([a[i], true]); i++; j++; }
      else if (j < b.length && longest[i][j + 1] >= longest[i + 1][j]) j++;
      else { words.push([a[i], false]); i++; }
    }
    return words;
  }

  // A text, the words underlined that the other one doesn't have.
  const marked = (text, other) => compared(text, other).flatMap(([word, kept]) => [" ", kept ? word : element("u", {}, word)]);

  // All states of one place at once, so that it is as high as the highest of them; one is visible.
  function stack(states) {
    const layers = states.map((children) => element("div", {}, ...children));
    return { place: element("div", { class: "rlhf-stack" }, ...layers), show: (i) => layers.forEach((layer, j) => layer.classList.toggle("rlhf-now", i === j)) };
  }

  // A slider with its label and what it says, which stay in sight while the reader looks at what they change.
  function slider(label, last) {
    const control = element("input", { type: "range", min: 0, max: last, step: 1, value: 0, autocomplete: "off" });
    const output = element("output", { class: "rlhf-numbers" });
    const say = (text) => { control.setAttribute("aria-valuetext", text); output.textContent = text; };
    return { control, say, bar: element("div", { class: "rlhf-control" }, element("label", { class: "rlhf-wide" }, label, " ", control), output) };
  }

  // ---- drawing ----

  // A panel with axes; x and y are {from, to, ticks, scale}. Sizes are about those of the screen, so that letters stay legible.
  const W = 340, H = 210, EDGE = { left: 38, right: 12, top: 26, bottom: 38 };

  function panel(x, y, title, xTitle) {
    const along = ({ from, to, scale = same }, a, b) => (value) => a + ((scale(value) - scale(from)) / (scale(to) - scale(from))) * (b - a);
    const px = along(x, EDGE.left, W - EDGE.right), py = along(y, H - EDGE.bottom, EDGE.top);
    const text = (content, attributes) => svg("text", attributes, content);
    const drawing = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img" },
      text(title, { x: 0, y: 13, class: "rlhf-panel-title" }),
      text(xTitle, { x: (EDGE.left + W - EDGE.right) / 2, y: H - 4, "text-anchor": "middle" }),
      ...x.ticks.map((tick) => text(fixed(tick, x.digits ?? 0), { x: px(tick), y: H - EDGE.bottom + 15, "text-anchor": "middle" })),
      ...y.ticks.flatMap((tick) => [
        text(fixed(tick, y.digits ?? 0), { x: EDGE.left - 6, y: py(tick) + 4, "text-anchor": "end" }),
        svg("line", { class: tick ? "rlhf-gridline" : "rlhf-axis", x1: EDGE.left, x2: W - EDGE.right, y1: py(tick), y2: py(tick) })]),
      svg("line", { class: "rlhf-axis", x1: EDGE.left, x2: EDGE.left, y1: EDGE.top, y2: H - EDGE.bottom }),
      svg("line", { class: "rlhf-axis", x1: EDGE.left, x2: W - EDGE.right, y1: H - EDGE.bottom, y2: H - EDGE.bottom }));
    return { drawing, px, py };
  }

  // Reward is a solid line with discs, gold a dashed one with squares, KL a dotted one with diamonds.
  function point(kind, x, y, size) {
    const attributes = { class: `rlhf-point rlhf-point-${kind}` };
    if (kind === "reward") return svg("circle", { cx: x, cy: y, r: size, ...attributes });
    if (kind === "gold") return svg("rect", { x: x - size, y: y - size, width: 2 * size, height: 2 * size, ...attributes });
    return svg("path", { d: `M${x} ${y - 1.3 * size}l${1.3 * size} ${1.3 * size}-${1.3 * size} ${1.3 * size}-${1.3 * size}-${1.3 * size}z`, ...attributes });
  }

  // Lines over a panel, with a mark that goes to one of their points.
  function lines({ drawing, px, py }, xs, series, labels) {
    const at = (key, i) => [px(xs[i]), py(series[key][i])];
    const mark = svg("line", { class: "rlhf-mark", y1: EDGE.top, y2: H - EDGE.bottom });
    const large = Object.fromEntries(Object.keys(series).map((key) => [key, svg("g")]));
    drawing.append(mark);
    for (const key of Object.keys(series)) {
      drawing.append(svg("polyline", { class: `rlhf-curve rlhf-curve-${key}`, points: xs.map((_, i) => at(key, i).join(",")).join(" ") }),
        ...xs.map((_, i) => point(key, ...at(key, i), 2.6)), large[key]);
    }
    for (const [text, key, i, dx, dy, anchor] of labels) {
      const [x, y] = at(key, i);
      drawing.append(svg("text", { x: x + dx, y: y + dy, class: `rlhf-label-${key}`, "text-anchor": anchor }, text));
    }
    return (i) => {
      mark.setAttribute("x1", px(xs[i]));
      mark.setAttribute("x2", px(xs[i]));
      for (const key of Object.keys(series)) large[key].replaceChildren(point(key, ...at(key, i), 5.5));
    };
  }

  // How many values lie in each bin of equal width on the scale; the last bin takes its upper end as well.
  function counts(values, { from, to, scale = same }, bins) {
    const found = new Array(bins).fill(0);
    for (const value of values) {
      const place = Math.floor(((scale(value) - scale(from)) / (scale(to) - scale(from))) * bins + 1e-9);
      found[Math.min(bins - 1, Math.max(0, place))] += 1;
    }
    return found;
  }

  // ---- policies at several prices ----

  const NAMES = { reward: "reward", gold: "gold score", kl: "KL, nats" };
  const SHOWN = 4; // openings at a time

  function prices(box, { openings, policies }) {
    const name = ({ beta }) => (beta === null ? "SFT model" : `β = ${beta}`);
    const averages = policies.map((policy) => ({ reward: mean(policy.reward), gold: mean(policy.gold), kl: mean(policy.kl) }));
    const said = (i) => `${name(policies[i])}: reward ${fixed(averages[i].reward)}, gold score ${fixed(averages[i].gold)}, KL ${fixed(averages[i].kl, 1)} nats`;
    const { control, say, bar } = slider("Price of a nat of KL: from the SFT model (left) to nothing (right)", policies.length - 1);

    // The frontier.
    const kls = averages.map((a) => a.kl);
    const most = Math.max(...kls) * 1.06;
    const squares = [0, 1, 4, 9, 16, 25, 36, 49, 64, 81, 100].filter((tick) => tick <= most);
    const scores = averages.flatMap((a) => [a.reward, a.gold]);
    const frontier = panel({ from: 0, to: most, ticks: squares, scale: root },
      { from: Math.min(-0.1, ...scores), to: Math.max(...scores) * 1.12, ticks: [0, 0.5, 1, 1.5].filter((tick) => tick < Math.max(...scores) * 1.12), digits: 1 },
      "The frontier: average reward and gold score", "KL, nats (spaced by the root)");
    const series = { reward: averages.map((a) => a.reward), gold: averages.map((a) => a.gold) };
    const end = policies.length - 1, top = series.gold.indexOf(Math.max(...series.gold));
    const mark = lines(frontier, kls, series, [["reward", "reward", end, 0, 16, "end"], ["gold score", "gold", top, 0, 22, "end"]]);

    // Histograms of the texts behind a point.
    const BINS = 24;
    const range = (key, low, high) => {
      const values = policies.flatMap((policy) => policy[key]);
      return { from: Math.min(low, ...values), to: Math.max(high, ...values) };
    };
    const axes = {
      reward: { ...range("reward", -2, 2), ticks: [-2, -1, 0, 1, 2] },
      gold: { ...range("gold", -1, 1), ticks: [-1, -0.5, 0, 0.5, 1], digits: 1 },
      kl: { ...range("kl", -4, 25), scale: root },
    };
    axes.kl.ticks = [-4, 0, 4, 16, 36, 64].filter((tick) => tick <= axes.kl.to);
    const histograms = Object.entries(axes).map(([key, axis]) => {
      const all = policies.map((policy) => counts(policy[key], axis, BINS));
      // The SFT model's KL is 0 for every text: that one bar is cut, or the others couldn't be seen.
      const highest = Math.max(...all.filter((_, i) => key !== "kl" || i).flat());
      const step = highest > 120 ? 50 : highest > 60 ? 25 : 10;
      const ticks = Array.from({ length: Math.floor(highest / step) + 1 }, (_, i) => i * step);
      const made = panel(axis, { from: 0, to: highest * 1.08, ticks }, `Texts by ${NAMES[key]}`, key === "kl" ? "KL, nats (spaced by the root)" : NAMES[key]);
      const width = (W - EDGE.left - EDGE.right) / BINS;
      const bars = svg("g"), middle = svg("line", { class: "rlhf-mark", y1: EDGE.top, y2: H - EDGE.bottom }), told = svg("text", { "text-anchor": "middle", y: EDGE.top + 2 });
      const outline = all[0].flatMap((n, bin) => [0, 1].map((side) => `${EDGE.left + (bin + side) * width},${made.py(n)}`)).join(" ");
      made.drawing.append(bars, key === "kl" ? "" : svg("polyline", { class: "rlhf-outline", points: outline }), middle, told);
      const show = (i) => {
        const values = policies[i][key], at = made.px(mean(values));
        bars.replaceChildren(...all[i].map((n, bin) => {
          const top = made.py(Math.min(n, highest * 1.08));
          return svg("rect", { class: `rlhf-fill-${key}`, x: EDGE.left + bin * width + 0.5, width: width - 1, y: top, height: H - EDGE.bottom - top });
        }));
        middle.setAttribute("x1", at);
        middle.setAttribute("x2", at);
        told.setAttribute("x", Math.min(W - 40, Math.max(EDGE.left + 40, at)));
        told.textContent = `mean ${fixed(mean(values))}`;
        made.drawing.setAttribute("aria-label", `Histogram of the ${NAMES[key]} of ${values.length} texts, ${name(policies[i])}: mean ${fixed(mean(values))}, ` +
          `half of the texts between ${fixed(quantile(values, 0.25))} and ${fixed(quantile(values, 0.75))}, all between ${fixed(Math.min(...values))} and ${fixed(Math.max(...values))}.`);
      };
      return { drawing: made.drawing, show };
    });

    // Texts.
    let first = 0, layers = [];
    const list = element("ol", { class: "rlhf-texts" });
    const which = element("span", { class: "rlhf-numbers" });
    function texts() {
      const here = openings.map((_, i) => i).slice(first, first + SHOWN);
      layers = here.map((row) => stack(policies.map((policy, i) => [
        element("span", { class: "rlhf-prompt" }, openings[row]),
        ...(i ? marked(policy.responses[row], policies[0].responses[row]) : [` ${policy.responses[row]}`]),
        element("small", {}, `reward ${fixed(policy.reward[row])} · gold ${fixed(policy.gold[row])} · KL ${fixed(policy.kl[row], 1)}`)])));
      list.replaceChildren(...layers.map((layer) => element("li", {}, layer.place)));
      which.textContent = `Texts ${first + 1} to ${here.at(-1) + 1} of ${openings.length}`;
      show();
    }

    function show() {
      const i = control.valueAsNumber;
      say(said(i));
      mark(i);
      frontier.drawing.setAttribute("aria-label", `Frontier of ${policies.length} policies. ` +
        `${averages.map((_, j) => said(j)).join("; ")}. Marked: ${name(policies[i])}.`);
      for (const histogram of histograms) histogram.show(i);
      for (const layer of layers) layer.show(i);
    }

    const numbers = (key) => (policy) => `${fixed(mean(policy[key]), 3)} ± ${fixed(error(policy[key]), 3)}`;
    control.addEventListener("input", show);
    box.append(
      bar, element("div", { class: "rlhf-panels" }, frontier.drawing, ...histograms.map((h) => h.drawing)),
      element("p", { class: "rlhf-caption" }, "Dashed outline: the SFT model's texts. Dashed upright line: where you are, and the mean."),
      // Above the texts: these differ in height, and the button shall stay under the pointer.
      element("div", { class: "rlhf-row" }, button("Other openings", () => { first = first + SHOWN < openings.length ? first + SHOWN : 0; texts(); }), which), list,
      details("The averages as a table", table(["policy", ...Object.values(NAMES)],
        policies.map((policy) => [name(policy), ...Object.keys(NAMES).map((key) => numbers(key)(policy))]), "Averages with standard errors")));
    texts();
  }

  // ---- one update, token by token ----

  const mi = (text) => math("mi", text.length > 1 ? { mathvariant: "normal" } : {}, text);
  const FORMS = { "(": { form: "prefix", stretchy: "false" }, ")": { form: "postfix", stretchy: "false" } };
  const mo = (text, form = FORMS[text] ?? {}) => math("mo", form, text);
  const space = () => math("mspace", { width: "0.17em" });
  const mn = (value, digits = 3) => {
    const text = fixed(value, digits);
    return text.startsWith("−") ? math("mrow", {}, mo("−"), math("mn", {}, text.slice(1))) : math("mn", {}, text);
  };
  const signed = (value, digits) => (fixed(value, digits ?? 3).startsWith("−") ? math("mrow", {}, mo("("), mn(value, digits), mo(")")) : mn(value, digits));
  const sub = (base, index) => math("msub", {}, typeof base === "string" ? mi(base) : base, typeof index === "number" ? math("mn", {}, index) : math("mtext", {}, index));
  const hat = (letter) => math("mover", { accent: "true" }, mi(letter), mo("^"));
  // Strings are operators; a minus behind one of these belongs to what follows it.
  const row = (...parts) => math("mrow", {}, ...parts.map((part, i) => {
    if (typeof part !== "string") return part;
    return part === "−" && (i === 0 || ["(", "=", "·", ","].includes(parts[i - 1])) ? mo(part, { form: "prefix" }) : mo(part);
  }));
  const log = (policy, t) => row(math("mi", {}, "log"), space(), policy ? sub("π", policy) : mi("π"), "(", sub("y", t), ")");

  function update(box, { update: number, config, whitening, responses }) {
    const { kl_coef: β, gamma: γ, gae_lambda: λ, clip_range: ε } = config;
    const kinds = ["best score", "median score", "worst score", "most clipped of the others"];
    const word = (token) => (token === "<eos>" ? "end of text" : token);
    let data, t = 0, q = 3;

    // A quantity: its name, what it is in words, its symbol, the formula with letters, the same with numbers, the cells used.
    const next = (values) => values[t + 1] ?? 0; // behind the last token V and Â are 0
    const isLast = () => t === data.tokens.length - 1;
    const chance = (key, policy) => ({
      symbol: () => log(policy, t + 1),
      letters: () => [],
      // With as many digits as its logarithm needs.
      numbers: () => [row(math("mi", {}, "log"), space(), mn(Math.exp(data[key][t]), Math.max(3, 2 - Math.floor(data[key][t] / Math.LN10))))],
      uses: () => [],
    });
    const QUANTITIES = [
      { key: "logprobs", name: "log π_old", means: "log-probability under the policy that wrote it", ...chance("logprobs", "old") },
      { key: "ref_logprobs", name: "log π_ref", means: "its log-probability under the SFT model", ...chance("ref_logprobs", "ref") },
      {
        key: "k1", name: "k_1", means: "what the token adds to the KL", symbol: () => sub("k", 1),
        letters: () => [log("old", t + 1), "−", log("ref", t + 1)],
        numbers: () => [mn(data.logprobs[t]), "−", signed(data.ref_logprobs[t])],
        uses: () => [["logprobs", t], ["ref_logprobs", t]],
      },
      {
        key: "rewards", name: "reward r", means: "the price of the KL, and on the last token the score",
        symbol: () => sub("r", t + 1),
        letters: () => ["−", mi("β"), "(", log("old", t + 1), "−", log("ref", t + 1), ")", ...(isLast() ? ["+", math("mtext", {}, "score")] : [])],
        numbers: () => ["−", mn(β, 2), "·", "(", mn(data.logprobs[t]), "−", signed(data.ref_logprobs[t]), ")", ...(isLast() ? ["+", signed(data.score)] : [])],
        uses: () => [["logprobs", t], ["ref_logprobs", t]],
      },
      {
        key: "values", name: "value V", means: "the guess, before the token, of the rewards still to come",
        symbol: () => sub("V", t + 1), letters: () => [], numbers: () => [], uses: () => [],
      },
      {
        key: "deltas", name: "TD error δ", means: "how much better the outlook is one token later",
        symbol: () => sub("δ", t + 1),
        letters: () => [sub("r", t + 1), "+", mi("γ"), sub("V", t + 2), "−", sub("V", t + 1)],
        numbers: () => [mn(data.rewards[t]), "+", mn(γ, 0), "·", signed(next(data.values)), "−", signed(data.values[t])],
        uses: () => [["rewards", t], ["values", t], ["values", t + 1]],
      },
      {
        key: "raw_advantages", name: "advantage Â", means: "the TD errors from here on, each later one counted less",
        symbol: () => sub(hat("A"), t + 1),
        letters: () => [sub("δ", t + 1), "+", mi("γ"), mi("λ"), sub(hat("A"), t + 2)],
        numbers: () => [mn(data.deltas[t]), "+", mn(γ, 0), "·", mn(λ, 2), "·", signed(next(data.raw_advantages))],
        uses: () => [["deltas", t], ["raw_advantages", t + 1]],
      },
      {
        key: "returns", name: "return G", means: "what the value head learns to say here",
        symbol: () => sub("G", t + 1),
        letters: () => [sub(hat("A"), t + 1), "+", sub("V", t + 1)],
        numbers: () => [mn(data.raw_advantages[t]), "+", signed(data.values[t])],
        uses: () => [["raw_advantages", t], ["values", t]],
      },
      {
        key: "advantages", name: "Â, whitened", means: "less the batch's mean, over the batch's deviation",
        symbol: () => math("msubsup", {}, hat("A"), math("mn", {}, String(t + 1)), math("mtext", {}, "white")),
        letters: () => [math("mfrac", {}, row(sub(hat("A"), t + 1), "−", math("mover", { accent: "true" }, mi("A"), mo("¯"))), row(mi("std"), "(", hat("A"), ")"))],
        numbers: () => [math("mfrac", {}, row(mn(data.raw_advantages[t]), "−", signed(whitening.mean)), mn(whitening.deviation))],
        uses: () => [["raw_advantages", t]],
      },
      { key: "new_logprobs", name: "log π, after", means: "its log-probability after the update", ...chance("new_logprobs", "") },
      {
        key: "ratio", name: "ratio ρ", means: "how many times as probable the update has made the token",
        symbol: () => sub("ρ", t + 1),
        letters: () => [math("mi", {}, "exp"), "(", log("", t + 1), "−", log("old", t + 1), ")"],
        numbers: () => [math("mi", {}, "exp"), "(", mn(data.new_logprobs[t]), "−", signed(data.logprobs[t]), ")"],
        uses: () => [["new_logprobs", t], ["logprobs", t]],
      },
      {
        key: "objective", name: "gain", means: "what the clipped objective counts for the token",
        symbol: () => null,
        letters: () => [math("mi", {}, "min"), "(", sub("ρ", t + 1), sub(hat("A"), t + 1), ",", mi("clip"), "(", sub("ρ", t + 1), ")", sub(hat("A"), t + 1), ")"],
        numbers: () => {
          const ρ = data.ratio[t], A = data.advantages[t];
          return [math("mi", {}, "min"), "(", mn(ρ), "·", signed(A), ",", mn(Math.min(1 + ε, Math.max(1 - ε, ρ))), "·", signed(A), ")"];
        },
        uses: () => [["ratio", t], ["advantages", t]],
      },
      { key: "clipped", name: "clipped", means: "", uses: () => [["ratio", t], ["advantages", t]] },
    ];
    const named = (name) => name.split("_").flatMap((part, i) => (i ? [element("sub", {}, part)] : [part]));
    const place = new Map(QUANTITIES.map((quantity, i) => [quantity.key, i]));

    // Why a token is clipped, or not.
    function verdict() {
      const up = data.advantages[t] > 0, ρ = fixed(data.ratio[t], 3);
      const wish = up ? "The advantage is positive: the token shall become more probable" : "The advantage is negative: the token shall become less probable";
      const bound = up ? `${fixed(1 + ε, 1)}` : `${fixed(1 - ε, 1)}`;
      if (data.clipped[t]) return `${wish}, and with a ratio of ${ρ}, ${up ? "above" : "below"} ${bound}, it is so already. Clipped: no gradient.`;
      return `${wish}, and a ratio of ${ρ} isn't ${up ? "above" : "below"} ${bound}. Not clipped: the gradient goes on.`;
    }

    const choice = element("select", {}, ...responses.map((r, i) => element("option", { value: i }, `${kinds[i]}, ${fixed(r.score)}: ${r.prompt} …`)));
    const sentence = element("p", { class: "rlhf-text" });
    const bars = element("div", { class: "rlhf-bars" });
    const grid = element("table", { role: "grid", "aria-label": "Every quantity of every token; arrow keys move" });
    const scroller = element("div", { class: "rlhf-scroll rlhf-cells" }, grid);
    const heading = element("p", { class: "rlhf-numbers", role: "status" });
    const formula = element("div", { class: "rlhf-formula" });
    let cells = [];

    const value = (quantity, i) => (quantity.key === "clipped" ? (data.clipped[i] ? "clipped" : "no") : fixed(data[quantity.key][i], 3));

    function load(i) {
      const r = responses[i];
      const k1 = r.logprobs.map((logp, j) => logp - r.ref_logprobs[j]);
      const clip = (ρ) => Math.min(1 + ε, Math.max(1 - ε, ρ));
      data = {
        ...r, k1,
        deltas: r.rewards.map((reward, j) => reward + γ * (r.values[j + 1] ?? 0) - r.values[j]),
        objective: r.ratio.map((ρ, j) => Math.min(ρ * r.advantages[j], clip(ρ) * r.advantages[j])),
      };
      t = Math.min(t, r.tokens.length - 1);
      cells = QUANTITIES.map((quantity) => r.tokens.map((_, column) => element("td", { role: "gridcell", tabindex: "-1" }, value(quantity, column))));
      grid.replaceChildren(
        element("thead", {}, element("tr", { role: "row" }, element("th", { scope: "col", role: "columnheader" }, "token"),
          ...r.tokens.map((token, j) => element("th", { scope: "col", role: "columnheader" }, element("small", {}, `${j + 1} `), word(token))))),
        element("tbody", {}, ...QUANTITIES.map((quantity, row) => element("tr", { role: "row" },
          element("th", { scope: "row", role: "rowheader" }, ...named(quantity.name)), ...cells[row]))));
      move(q, t);
    }

    // The cell that stays; show() may look at another one for as long as the mouse is over it.
    function move(row, column) {
      cells.flat().forEach((cell) => { cell.tabIndex = -1; cell.removeAttribute("aria-selected"); });
      q = Math.max(0, Math.min(QUANTITIES.length - 1, row));
      t = Math.max(0, Math.min(data.tokens.length - 1, column));
      const cell = cells[q][t];
      cell.tabIndex = 0;
      cell.setAttribute("aria-selected", "true");
      // Only the table is moved, so that the cell and its right neighbour are seen: the page stays where the reader has it.
      const head = grid.querySelector("tbody th").offsetWidth, { offsetLeft, offsetWidth } = cells[q][t + 1] ?? cell;
      scroller.scrollLeft = Math.min(cell.offsetLeft - head, Math.max(scroller.scrollLeft, offsetLeft + offsetWidth - scroller.clientWidth));
      show(q, t);
    }

    function show(which, column) {
      const kept = t, quantity = QUANTITIES[which];
      t = column; // the formulas speak of token t
      const uses = quantity.uses().filter(([, i]) => i < data.tokens.length);
      const used = new Set(uses.map(([key, i]) => cells[place.get(key)][i]));
      cells.flat().forEach((cell) => cell.classList.toggle("rlhf-used", used.has(cell)));
      const said = quantity.key === "clipped" ? (data.clipped[t] ? "clipped" : "not clipped") : `${quantity.name.replace("_", " ")} is ${value(quantity, t)}`;
      heading.textContent = `Token ${t + 1} of ${data.tokens.length}, “${word(data.tokens[t])}”: ${said}${quantity.means && `, ${quantity.means}`}.`;
      const line = (...parts) => element("div", {}, math("math", {}, row(...parts)));
      if (quantity.key === "clipped") formula.replaceChildren(element("p", {}, verdict()));
      else {
        const [symbol, letters, numbers] = [quantity.symbol(), quantity.letters(), quantity.numbers()];
        const steps = [letters, numbers, [mn(data[quantity.key][t])]].filter((parts) => parts.length);
        formula.replaceChildren(...steps.map((parts, i) => (i || !symbol ? line(...(i ? ["="] : []), ...parts) : line(symbol, "=", ...parts))));
      }
      sentence.replaceChildren(element("span", { class: "rlhf-prompt" }, data.prompt),
        ...data.tokens.flatMap((token, i) => [" ", element("span", { class: i === t ? "rlhf-here" : "" }, word(token))]));
      bars.replaceChildren(element("small", {}, ...named(quantity.name), ` of each token, from ${quantity.key === "ratio" ? 1 : 0}`), drawn(quantity));
      t = kept;
    }

    // The quantity over the tokens: bars up and down from zero.
    function drawn(quantity) {
      const values = quantity.key === "clipped" ? data.clipped.map(Number) : data[quantity.key];
      const base = quantity.key === "ratio" ? 1 : 0, height = 110, width = 640;
      const low = Math.min(base, ...values), high = Math.max(base, ...values);
      const y = (v) => 12 + ((high - v) / (high - low || 1)) * (height - 24);
      const step = width / values.length;
      const told = values.map((v, i) => `${word(data.tokens[i])} ${value(quantity, i)}`).join(", ");
      return svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `${quantity.name} of each token, as bars: ${told}.` },
        ...values.map((v, i) => svg("rect", { class: `rlhf-bar-${v < base ? "down" : "up"}${i === t ? " rlhf-bar-here" : ""}`,
          x: i * step + 2, width: step - 4, y: Math.min(y(v), y(base)), height: Math.max(1, Math.abs(y(v) - y(base))) })),
        svg("line", { class: "rlhf-axis", x1: 0, x2: width, y1: y(base), y2: y(base) }));
    }

    grid.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -Infinity], End: [0, Infinity] };
      const step = steps[event.key];
      if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      move(q + step[0], t + step[1]);
      cells[q][t].focus({ preventScroll: true });
    });
    const under = (event) => event.target.closest("td");
    const where = (cell) => [cell.parentElement.sectionRowIndex, cell.cellIndex - 1];
    grid.addEventListener("click", (event) => {
      const cell = under(event);
      if (!cell) return;
      move(...where(cell));
      cell.focus({ preventScroll: true });
    });
    // A mouse that lies still says nothing, even where keys have moved the table under it.
    grid.addEventListener("pointermove", (event) => {
      const cell = under(event);
      if (cell && event.pointerType === "mouse" && (event.movementX || event.movementY)) show(...where(cell));
    });
    grid.addEventListener("pointerleave", () => show(q, t));
    choice.addEventListener("input", () => load(Number(choice.value)));
    box.append(
      element("label", { class: "rlhf-wide" }, `A response of update ${number} `, choice), sentence, bars, element("div", { class: "rlhf-control" }, heading, formula),
      element("div", { class: "rlhf-row" }, button("← Token", () => move(q, t - 1)), button("Token →", () => move(q, t + 1)),
        button("↑ Number", () => move(q - 1, t)), button("Number ↓", () => move(q + 1, t))),
      scroller, element("p", { class: "rlhf-caption" }, "Solid frame: the number that is explained. Dashed frames: the numbers that it is made of."));
    load(0);
  }

  // ---- a training run ----

  function training(box, { openings, looks }) {
    const { control, say, bar } = slider("Updates: from the SFT model (left) to the end of training (right)", looks.length - 1);
    const last = looks.at(-1).updates;
    const updates = looks.map((look) => look.updates);
    const said = (i) => `After ${updates[i]} of ${last} updates: reward ${fixed(looks[i].reward)}, gold score ${fixed(looks[i].gold)}, KL ${fixed(looks[i].kl)} nats`;
    const x = { from: 0, to: last, ticks: [0, 1, 4, 9, 16, 25, 36, 49, 64].filter((tick) => tick <= last), scale: root };
    const series = Object.fromEntries(["reward", "gold", "kl"].map((key) => [key, looks.map((look) => look[key])]));
    const high = Math.max(...series.reward, ...series.gold) * 1.12, highKL = Math.max(...series.kl) * 1.12;
    const scores = panel(x, { from: Math.min(0, ...series.reward, ...series.gold), to: high, ticks: [0, 0.5, 1, 1.5].filter((tick) => tick < high), digits: 1 },
      "Average reward and gold score", "updates (spaced by the root)");
    const distance = panel(x, { from: 0, to: highKL, ticks: [0, 0.5, 1, 1.5, 2].filter((tick) => tick < highKL), digits: 1 }, "Average KL, nats", "updates (spaced by the root)");
    const end = looks.length - 1;
    const marks = [
      lines(scores, updates, { reward: series.reward, gold: series.gold }, [["reward", "reward", end, 0, -9, "end"], ["gold score", "gold", end, 0, 18, "end"]]),
      lines(distance, updates, { kl: series.kl }, [])];
    const layers = openings.map((opening, row) => stack(looks.map((look, i) => [
      element("span", { class: "rlhf-prompt" }, opening),
      ...(i ? marked(look.responses[row], looks[i - 1].responses[row]) : [` ${look.responses[row]}`])])));

    function show() {
      const i = control.valueAsNumber;
      say(said(i));
      for (const mark of marks) mark(i);
      const from = looks[0], to = looks.at(-1);
      scores.drawing.setAttribute("aria-label", `Over ${last} updates the reward goes from ${fixed(from.reward)} to ${fixed(to.reward)} and the gold score from ${fixed(from.gold)} to ${fixed(to.gold)}. ` +
        `Marked: ${updates[i]} updates, reward ${fixed(looks[i].reward)}, gold score ${fixed(looks[i].gold)}.`);
      distance.drawing.setAttribute("aria-label", `Over ${last} updates the KL goes from ${fixed(from.kl)} to ${fixed(to.kl)} nats, at most ${fixed(Math.max(...series.kl))}. ` +
        `Marked: ${updates[i]} updates, ${fixed(looks[i].kl)} nats.`);
      for (const layer of layers) layer.show(i);
    }

    control.addEventListener("input", show);
    box.append(
      bar, element("div", { class: "rlhf-panels" }, scores.drawing, distance.drawing),
      element("ol", { class: "rlhf-texts" }, ...layers.map((layer) => element("li", {}, layer.place))),
      element("p", { class: "rlhf-caption" }, "Underlined: words that weren't there at the look before."),
      details("The looks as a table", table(["updates", "reward", "gold score", "KL, nats"],
        looks.map((look) => [look.updates, fixed(look.reward, 3), fixed(look.gold, 3), fixed(look.kl, 3)]), "Averages at each look")));
    show();
  }

  const parts = { prices, update, training };
  for (const box of document.querySelectorAll(".rlhf-explorable")) {
    parts[box.dataset.part](box, JSON.parse(box.querySelector("script[type='application/json']").textContent));
  }
})();
