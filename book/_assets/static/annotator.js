// Be the annotator: the reader judges pairs, and a reward model is fitted to these judgements on the spot.
//
// The model is the smallest that has something to show: a weight for each word, and a text's score is the sum of the
// weights of its words. Bradley and Terry's loss over the judgements, with a quadratic price on the weights.
"use strict";

var annotation = (() => {
  // How often each word stands in a text.
  function counts(text) {
    const found = new Map();
    for (const word of text.split(/\s+/).filter(Boolean)) found.set(word, (found.get(word) ?? 0) + 1);
    return found;
  }

  // Words of the first text less those of the second, as [word, difference] without zeros.
  function difference(first, second) {
    const found = counts(first);
    for (const [word, n] of counts(second)) found.set(word, (found.get(word) ?? 0) - n);
    return [...found].filter(([, n]) => n !== 0);
  }

  const score = (weights, text) => [...counts(text)].reduce((sum, [word, n]) => sum + n * (weights.get(word) ?? 0), 0);

  // Weights w that minimise  Σ −log σ(w·d) + ½ Σ w² / variance  over pairs [chosen, rejected]; gradient descent with a
  // step that halves whenever the loss would rise. The problem is convex, so there is one answer.
  function fit(pairs, variance = 1, steps = 400) {
    const rows = pairs.map(([chosen, rejected]) => difference(chosen, rejected));
    let weights = new Map();
    const gap = (w, row) => row.reduce((sum, [word, n]) => sum + n * (w.get(word) ?? 0), 0);
    const loss = (w) => rows.reduce((sum, row) => sum + Math.log1p(Math.exp(-gap(w, row))), 0) +
      [...w.values()].reduce((sum, value) => sum + value * value, 0) / (2 * variance);
    let now = loss(weights), step = 1;
    for (let i = 0; i < steps && step > 1e-9; i++) {
      const slope = new Map([...weights].map(([word, value]) => [word, value / variance]));
      for (const row of rows) {
        const push = 1 / (1 + Math.exp(gap(weights, row)));
        for (const [word, n] of row) slope.set(word, (slope.get(word) ?? 0) - push * n);
      }
      const tried = new Map([...slope].map(([word, value]) => [word, (weights.get(word) ?? 0) - step * value]));
      const then = loss(tried);
      if (then < now) { weights = tried; now = then; step *= 1.2; } else step /= 2;
    }
    return { weights, loss: now };
  }

  // Share of (better, worse) pairs that the model ranks alike; a pair that it can't tell counts half.
  function agreement(weights, pairs) {
    const points = pairs.map(([better, worse]) => {
      const gap = score(weights, better) - score(weights, worse);
      return Math.abs(gap) < 1e-9 ? 0.5 : Number(gap > 0);
    });
    return points.reduce((a, b) => a + b, 0) / Math.max(1, points.length);
  }

  return { counts, difference, score, fit, agreement };
})();

(() => {
  const { element, button, fixed } = alive;
  const root = document.querySelector(".rlhf-alive[data-part='annotator']");
  if (!root) return;
  const facts = JSON.parse(document.getElementById("rlhf-annotator-facts").textContent);
  const KEPT = "rlhf-book-judgements";
  const SHOWN = 8; // words at each end of the list
  const FEW = 5; // judgements before a model is fitted
  const NAMES = { a: "the left text", b: "the right text", tie: "about the same" };

  // ---- what is kept ----

  let records = [];
  let lost = "";
  try {
    records = JSON.parse(localStorage.getItem(KEPT) ?? "[]");
  } catch {
    records = []; // no storage, or something else stands there
  }
  if (!Array.isArray(records)) records = [];

  function keep() {
    try {
      localStorage.setItem(KEPT, JSON.stringify(records));
      lost = "";
    } catch {
      lost = " This browser keeps nothing: download them before you leave the page.";
    }
  }

  // ---- pairs ----

  const judged = () => new Set(records.map((record) => record.pair_id));
  let skipped = new Set();
  let pair = null, since = 0;

  function next() {
    const done = judged();
    const left = facts.pairs.filter(({ id }) => !done.has(id) && !skipped.has(id));
    pair = left.length ? { ...left[Math.floor(Math.random() * left.length)] } : null;
    // Which text stands on the left is left to chance, so that a liking for one side can't pass for a liking for a text.
    if (pair && Math.random() < 0.5) pair.responses = [...pair.responses].reverse();
    since = performance.now();
  }

  function judge(choice) {
    if (!pair) return;
    records.push({
      pair_id: pair.id,
      prompt: pair.prompt,
      response_a: pair.responses[0],
      response_b: pair.responses[1],
      choice,
      annotator: "reader",
      seconds: Math.round((performance.now() - since) / 10) / 100,
      created_at: new Date().toISOString(),
      source: "site",
    });
    keep();
    say(`Noted: ${NAMES[choice]}.`);
    next();
    show();
  }

  function skip() {
    if (!pair) return;
    skipped.add(pair.id);
    say("Skipped.");
    next();
    show();
  }

  function undo() {
    const last = records.pop();
    if (!last) return;
    keep();
    const found = facts.pairs.find(({ id }) => id === last.pair_id);
    pair = found ? { ...found, responses: [last.response_a, last.response_b] } : pair;
    since = performance.now();
    say("The last judgement is taken back.");
    show();
  }

  function forget() {
    if (!confirm(`Forget all ${records.length} judgements?`)) return;
    records = [];
    skipped = new Set();
    keep();
    next();
    say("All judgements are forgotten.");
    show();
  }

  // One judgement a line, as the lesson on preferences and the command line read it.
  function download() {
    const text = records.map((record) => JSON.stringify(record)).join("\n") + "\n";
    const url = URL.createObjectURL(new Blob([text], { type: "application/jsonl" }));
    element("a", { href: url, download: "my_preferences.jsonl" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  // ---- the page ----

  const status = element("p", { class: "rlhf-note", role: "status" });
  const say = (text) => { status.textContent = text + lost; };
  const prompt = element("p", { class: "rlhf-prompt" });
  const left = button("", () => judge("a"), { class: "rlhf-button rlhf-choice" });
  const right = button("", () => judge("b"), { class: "rlhf-button rlhf-choice" });
  const progress = element("p", { class: "rlhf-numbers" });
  const result = element("div", { class: "rlhf-next" });
  const tie = button("About the same", () => judge("tie"));
  const skipping = button("Skip", skip);
  const undoing = button("Undo", undo);
  const saving = button("Download the judgements", download);
  const forgetting = button("Forget all", forget);

  const chosenRejected = () => records.filter(({ choice }) => choice !== "tie").map((r) => {
    const [a, b] = [r.prompt + r.response_a, r.prompt + r.response_b];
    return r.choice === "a" ? [a, b] : [b, a];
  });

  const percent = (share) => `${Math.round(100 * share)}%`;

  function show() {
    prompt.textContent = pair ? `${pair.prompt} …` : "You have seen all pairs.";
    for (const [control, i] of [[left, 0], [right, 1]]) {
      control.textContent = pair ? `… ${pair.responses[i].trim()}` : "";
      control.hidden = !pair;
    }
    tie.disabled = skipping.disabled = !pair;
    undoing.disabled = saving.disabled = forgetting.disabled = !records.length;
    const ties = records.filter(({ choice }) => choice === "tie").length;
    const seconds = records.map((r) => r.seconds).sort((a, b) => a - b);
    progress.textContent = records.length
      ? `${records.length} of ${facts.pairs.length} pairs judged, ${ties} of them about the same; half of them in less than ${seconds[Math.floor(seconds.length / 2)].toFixed(1)} s.`
      : `${facts.pairs.length} pairs wait.`;
    result.replaceChildren();
    const pairs = chosenRejected();
    if (pairs.length < FEW) {
      result.append(element("p", {}, `A model is fitted once ${FEW} pairs have a better text; ${FEW - pairs.length} to go.`));
      return;
    }
    fitted(pairs);
  }

  function fitted(pairs) {
    const { weights } = annotation.fit(pairs);
    const gold = new Map(facts.pairs.map(({ id, better, prompt: p, responses }) => [id, [p + responses[better], p + responses[1 - better]]]));
    const known = records.filter(({ choice, pair_id: id }) => choice !== "tie" && gold.has(id));
    const alike = known.filter((r) => r.prompt + (r.choice === "a" ? r.response_a : r.response_b) === gold.get(r.pair_id)[0]).length;
    const share = annotation.agreement(weights, facts.heldOut);
    const error = Math.sqrt((share * (1 - share)) / facts.heldOut.length);
    const order = [...weights].filter(([, w]) => Math.abs(w) > 0.01).sort((x, y) => y[1] - x[1]);
    const most = Math.max(...order.map(([, w]) => Math.abs(w)), 0.01);
    const column = (title, words) => element("table", { class: "rlhf-candidates" },
      element("caption", {}, title),
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "word"), element("th", { scope: "col" }, "weight"))),
      element("tbody", {}, ...words.map(([word, weight]) => {
        const bar = element("span", { class: `rlhf-bar rlhf-bar-${weight > 0 ? "more" : "less"}` });
        bar.style.width = `${(100 * Math.abs(weight)) / most}%`;
        return element("tr", {}, element("th", { scope: "row" }, word), element("td", {}, bar, element("span", {}, fixed(weight))));
      })));
    result.append(
      element("p", {}, element("strong", {}, "Your reward model "), `has learnt from ${pairs.length} of your judgements. ` +
        `Of ${facts.heldOut.length} pairs that it hasn't seen it ranks ${percent(share)} as the gold judge does (± ${percent(error)}; guessing gives 50 %). ` +
        `You yourself chose the gold judge's text in ${alike} of ${known.length} pairs.`),
      element("div", { class: "rlhf-columns" },
        column("What it likes", order.filter(([, w]) => w > 0).slice(0, SHOWN)),
        column("What it doesn't", order.filter(([, w]) => w < 0).slice(-SHOWN).reverse())));
  }

  root.append(
    prompt,
    element("div", { class: "rlhf-pair" }, left, right),
    element("div", { class: "rlhf-row" }, tie, skipping, undoing),
    element("p", { class: "rlhf-note" }, "Keys, while one of these buttons has the focus: ← left, → right, ↓ about the same, S skip, U undo."),
    status, progress, result,
    element("div", { class: "rlhf-row" }, saving, forgetting),
  );
  const keys = { ArrowLeft: () => judge("a"), ArrowRight: () => judge("b"), ArrowDown: () => judge("tie"), s: skip, u: undo };
  root.addEventListener("keydown", (event) => {
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    event.preventDefault();
    action();
    if (document.activeElement?.disabled || document.activeElement === document.body) left.focus();
  });
  next();
  show();
})();
