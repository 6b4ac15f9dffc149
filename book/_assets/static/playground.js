// The controls of the playground: two policies write in the reader's browser, a slider mixes them, a reward model reads.
//
// The page brings what is small as JSON; policies.js brings the models' arithmetic. Weights come on the first click.
"use strict";

(() => {
  const facts = JSON.parse(document.getElementById("rlhf-playground-facts").textContent);
  const vocabulary = new rlhf.Vocabulary(facts.words, facts.special);
  const TOP = 8; // words in the table of what may come next
  const BATCH = 24; // responses behind the averages for one opening
  const BEAT = 70; // milliseconds between two tokens of a text that writes itself

  const { element, svg, button, details, fixed, mean, error } = alive;

  // ---- small helpers ----

  const percent = (share) => (share > 0 && share < 0.0005 ? "< 0.1%" : `${(100 * share).toFixed(1)}%`);
  const pause = (milliseconds = 0) => new Promise((resolve) => setTimeout(resolve, milliseconds));
  const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
  const scaled = (raw) => (raw - facts.scale.mean) / facts.scale.std;
  const name = (token) => (token === vocabulary.eos ? "end of text" : facts.words[token]);

  // ---- models ----

  const ready = {};

  function model(key) {
    ready[key] ??= rlhf.weights(key).then((tensors) => new rlhf.Model(facts.config, tensors));
    ready[key].catch(() => delete ready[key]);
    return ready[key];
  }

  const megabytes = (...keys) => (keys.reduce((sum, key) => sum + facts.sizes[key], 0) / 1e6).toFixed(1);

  // A text in the course of being written: both policies have read it, and each knows what it would write next.
  class Draft {
    constructor(models, tokens) {
      this.models = models;
      this.caches = models.map((m) => m.empty());
      this.prompt = tokens;
      this.steps = []; // {token, logprobs: [sft, mixture, ppo], kl}
      for (const token of tokens) this.read(token);
    }

    read(token) {
      this.next = this.models.map((m, i) => rlhf.logSoftmax(m.logits(m.read(token, this.caches[i]))));
    }

    // Log-probabilities of the next token under SFT, the mixture and PPO. Log-probabilities mix as logits do.
    distributions(share) {
      const [sft, ppo] = this.next;
      return [sft, rlhf.logSoftmax(sft.map((z, i) => (1 - share) * z + share * ppo[i])), ppo];
    }

    get ended() {
      return this.steps.length >= facts.limit || this.steps.at(-1)?.token === vocabulary.eos;
    }

    write(share, chance) {
      const all = this.distributions(share);
      const [sft, mixed] = all;
      const token = rlhf.draw(mixed, chance);
      const kl = mixed.reduce((sum, logp, i) => sum + (logp > -80 ? Math.exp(logp) * (logp - sft[i]) : 0), 0);
      this.steps.push({ token, logprobs: all.map((logprobs) => logprobs[token]), kl });
      if (!this.ended) this.read(token);
    }

    get kl() {
      return this.steps.reduce((sum, step) => sum + step.kl, 0);
    }

    get tokens() {
      return [...this.prompt, ...this.steps.map((step) => step.token)];
    }
  }

  // A reward model's scores of a text, as if it ended behind each of its words, in deviations of the SFT model's scores.
  function scoresOf(reader, tokens) {
    const cache = reader.empty();
    const scores = [];
    for (const token of tokens) {
      if (token === vocabulary.eos) break;
      reader.read(token, cache);
      scores.push(scaled(reader.score(reader.read(vocabulary.eos, rlhf.branch(cache)))));
    }
    return scores;
  }

  // What PPO's reward is for a response: a response that was cut is scored without an end, as in training.
  function rewardOf(reader, tokens) {
    const cache = reader.empty();
    let hidden;
    for (const token of tokens) hidden = reader.read(token, cache);
    return scaled(reader.score(hidden));
  }

  // ---- drawing ----

  const bar = (share, kind) => {
    const made = element("span", { class: `rlhf-bar rlhf-bar-${kind}` });
    made.style.width = `${100 * Math.min(1, share)}%`;
    return made;
  };

  // Reward, gold score and, in a panel of its own, KL over the slider, as the build has measured them, with the slider's place.
  function curves() {
    const W = 560, H = 270, left = 36, right = 44;
    const upper = { top: 14, bottom: 150 }, lower = { top: 172, bottom: 242 };
    const points = facts.curve;
    const x = (share) => left + share * (W - left - right);
    const scale = ({ top, bottom }, values) => {
      const low = Math.min(0, ...values), high = Math.max(...values) * 1.08;
      return (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
    };
    const y = scale(upper, points.flatMap((p) => [p.reward, p.gold]));
    const yKL = scale(lower, points.map((p) => p.kl));
    const line = (key, at) => svg("polyline", { class: `rlhf-curve rlhf-curve-${key}`, points: points.map((p) => `${x(p.share)},${at(p[key])}`).join(" ") });
    const label = (text, px, py, kind, anchor = "start") => svg("text", { x: px, y: py, class: `rlhf-label-${kind}`, "text-anchor": anchor }, text);
    const mark = svg("line", { class: "rlhf-mark", y1: upper.top, y2: lower.bottom });
    const last = points.at(-1);
    const axis = (at) => [svg("line", { class: "rlhf-axis", x1: left, x2: W - right, y1: at, y2: at }), label("0", left - 6, at + 4, "axis", "end")];
    const drawing = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": told() },
      ...axis(y(0)), ...axis(yKL(0)), line("reward", y), line("gold", y), line("kl", yKL), mark,
      label("reward", x(0.6), y(points[6].reward) - 9, "reward", "end"),
      label("gold score", x(0.78), y(points[8].gold) + 18, "gold", "middle"),
      label("KL, nats", x(0.45), yKL(points[5].kl) - 6, "kl", "end"),
      label(fixed(last.reward, 1), x(1) + 5, y(last.reward) + 4, "reward"),
      label(fixed(last.gold, 1), x(1) + 5, y(last.gold) + 4, "gold"),
      label(fixed(last.kl, 1), x(1) + 5, yKL(last.kl) + 4, "kl"),
      label("SFT, λ = 0", x(0), H - 8, "axis"), label("PPO, λ = 1", x(1), H - 8, "axis", "end"));
    return { drawing, place: (share) => { mark.setAttribute("x1", x(share)); mark.setAttribute("x2", x(share)); } };
  }

  const told = () => {
    const [a, b] = [facts.curve[0], facts.curve.at(-1)];
    return `Averages over held-out openings. From λ = 0 to λ = 1 the reward goes from ${fixed(a.reward)} to ${fixed(b.reward)}, ` +
      `the gold score from ${fixed(a.gold)} to ${fixed(b.gold)} and the KL from ${fixed(a.kl)} to ${fixed(b.kl)} nats.`;
  };

  // The measured averages between two of the build's points.
  function averages(share) {
    const steps = facts.curve.length - 1;
    const at = Math.min(steps - 1, Math.floor(share * steps));
    const rest = share * steps - at;
    const between = (key) => (1 - rest) * facts.curve[at][key] + rest * facts.curve[at + 1][key];
    return { reward: between("reward"), gold: between("gold"), kl: between("kl") };
  }

  // ---- the playground ----

  function playground(root) {
    const say = element("p", { class: "rlhf-note", role: "status" });
    const start = button(`Fetch the two policies and the reward model (${megabytes("sft", "ppo", "reward")} MB) and start`, async () => {
      start.disabled = true;
      say.textContent = "Fetching …";
      try {
        const loaded = await Promise.all(["sft", "ppo", "reward"].map(model));
        start.replaceWith();
        say.textContent = "";
        open(root, loaded, say);
      } catch (error) {
        start.disabled = false;
        say.textContent = `That didn't work: ${error.message}. Try again.`;
      }
    });
    root.append(start, say);
  }

  function open(root, [sft, ppo, reader], say) {
    let seed = 1, draft = null, at = 0;
    let batch = 0, writing = 0; // what runs in the background stops when its number is no longer the last
    let roll = rlhf.dice(seed);

    const opening = element("input", { type: "text", value: facts.openings[0], list: "rlhf-openings", autocomplete: "off", spellcheck: "false", maxlength: 300 });
    const list = element("datalist", { id: "rlhf-openings" }, ...facts.openings.map((text) => element("option", { value: text })));
    const slider = element("input", { type: "range", min: 0, max: 1, step: 0.05, value: 0, "aria-label": "λ, from SFT to PPO" });
    const sliderText = element("output", { class: "rlhf-slider-value" });
    const text = element("p", { class: "rlhf-text", "aria-live": "polite" });
    const numbers = element("p", { class: "rlhf-numbers" });
    const averaged = element("p", { class: "rlhf-numbers" });
    const next = element("div", { class: "rlhf-next" });
    const record = element("div", { class: "rlhf-scroll", tabindex: "0", role: "region", "aria-label": "Each token of the response" });
    const { drawing, place } = curves();
    const share = () => slider.valueAsNumber;

    const step = button("Next token", () => { stop(); advance(); show(); });
    const whole = button("Write to the end", write, { class: "rlhf-button rlhf-main" });
    const again = button("Throw new dice", () => { seed += 1; restart(); return write(); });
    const back = button("Start over", () => restart());
    const other = button("Another opening", () => {
      at = (at + 1) % facts.openings.length;
      opening.value = facts.openings[at];
      restart();
    });

    function restart() {
      roll = rlhf.dice(seed);
      batch += 1;
      stop();
      averaged.textContent = "";
      const words = vocabulary.split(opening.value);
      const most = facts.config.context - facts.limit;
      draft = null;
      if (!words.length) say.textContent = "Type at least one word.";
      else if (words.length > most) say.textContent = `An opening has ${most} words at most; this one has ${words.length}.`;
      else {
        const unknown = vocabulary.unknown(opening.value);
        say.textContent = unknown.length
          ? `Not in the models' vocabulary: ${unknown.join(", ")}. They read ${unknown.length > 1 ? "each" : "it"} as “unknown word”.` : "";
        draft = new Draft([sft, ppo], vocabulary.encode(opening.value));
      }
      show();
    }

    function advance() {
      if (!draft || draft.ended) restart();
      draft?.write(share(), roll());
    }

    // Token by token, slowly enough to be read; at once for those who want no motion.
    async function write() {
      advance();
      const mine = stop();
      text.ariaBusy = "true"; // a screen reader waits for the whole text
      while (draft && !draft.ended) {
        if (!still()) {
          show();
          await pause(BEAT);
          if (mine !== writing) return;
        }
        draft.write(share(), roll());
      }
      text.ariaBusy = "false";
      show();
    }

    function stop() {
      text.ariaBusy = "false";
      return (writing += 1);
    }

    function show() {
      sliderText.textContent = `λ = ${fixed(share())}`;
      const average = averages(share());
      slider.setAttribute("aria-valuetext", `${fixed(share())}: on average reward ${fixed(average.reward)}, KL ${fixed(average.kl)} nats`);
      place(share());
      measured.textContent = `On average over held-out openings: reward ${fixed(average.reward)}, gold score ${fixed(average.gold)}, KL ${fixed(average.kl)} nats.`;
      for (const control of [step, whole]) control.disabled = !draft;
      text.replaceChildren();
      next.replaceChildren();
      record.replaceChildren();
      numbers.textContent = "";
      if (!draft) return;
      text.append(element("span", { class: "rlhf-prompt" }, vocabulary.decode(draft.prompt)));
      for (const { token, logprobs } of draft.steps) {
        // Blue where PPO likes the token better than SFT, orange where it likes it less; one step for a factor of e.
        const ratio = logprobs[2] - logprobs[0];
        const strength = Math.min(3, Math.round(Math.abs(ratio)));
        const kind = strength ? ` rlhf-${ratio > 0 ? "more" : "less"}-${strength}` : "";
        const word = token === vocabulary.eos ? "∎" : facts.words[token];
        text.append(" ", element("span", { class: `rlhf-token${kind}`, title: `SFT ${percent(Math.exp(logprobs[0]))}, PPO ${percent(Math.exp(logprobs[2]))}` }, word));
      }
      if (draft.steps.length) {
        const end = draft.ended ? (draft.steps.at(-1).token === vocabulary.eos ? "The text has ended." : "Cut at the limit.") : "";
        const scores = scoresOf(reader, draft.tokens);
        const raw = draft.ended ? rewardOf(reader, draft.tokens) : scores.at(-1);
        numbers.textContent = `This text: reward ${fixed(raw)}${draft.ended ? "" : " if it ended here"}, KL ${fixed(draft.kl)} nats, ${draft.steps.length} tokens. ${end}`;
        record.append(table(scores));
      }
      if (!draft.ended) next.append(candidates());
      // The place stays as high as it has been, so that what is below doesn't jump.
      next.style.minHeight = `${Math.max(parseFloat(next.style.minHeight) || 0, next.offsetHeight)}px`;
    }

    function candidates() {
      const all = draft.distributions(share());
      const order = [...all[1].keys()].sort((a, b) => all[1][b] - all[1][a]).slice(0, TOP);
      const rows = order.map((token) => element("tr", {}, element("th", { scope: "row" }, name(token)),
        ...["sft", "mix", "ppo"].map((kind, i) => {
          const p = Math.exp(all[i][token]);
          return element("td", {}, bar(p, kind), element("span", {}, percent(p)));
        })));
      return element("table", { class: "rlhf-candidates" }, element("caption", {}, "What may come next"),
        element("thead", {}, element("tr", {}, ...["token", "SFT", "mixture", "PPO"].map((head) => element("th", { scope: "col" }, head)))),
        element("tbody", {}, ...rows));
    }

    function table(scores) {
      const head = ["token", "SFT", "mixture", "PPO", "KL", "reward if it ended here"];
      const rows = draft.steps.map((s, i) => element("tr", {}, element("th", { scope: "row" }, name(s.token)),
        ...[...s.logprobs.map((logp) => percent(Math.exp(logp))), fixed(s.kl, 3), s.token === vocabulary.eos ? "" : fixed(scores[draft.prompt.length + i])]
          .map((cell) => element("td", { class: "number" }, cell))));
      return element("table", {}, element("thead", {}, element("tr", {}, ...head.map((h) => element("th", { scope: "col" }, h)))),
        element("tbody", {}, ...rows));
    }

    // Averages for this opening, from fresh dice; the page stays usable in between.
    async function average() {
      const mine = (batch += 1);
      const rewards = [], kls = [], λ = share();
      const prompt = draft?.prompt;
      if (!prompt) return;
      const chance = rlhf.dice(1000 + seed);
      for (let i = 0; i < BATCH; i++) {
        const trial = new Draft([sft, ppo], prompt);
        while (!trial.ended) trial.write(λ, chance());
        rewards.push(rewardOf(reader, trial.tokens));
        kls.push(trial.kl);
        await pause();
        if (mine !== batch) return;
        averaged.textContent = `For this opening at λ = ${fixed(λ)}: reward ${fixed(mean(rewards))} ± ${fixed(error(rewards))}, ` +
          `KL ${fixed(mean(kls))} ± ${fixed(error(kls))} nats (${i + 1} of ${BATCH} texts).`;
      }
    }

    const measured = element("p", { class: "rlhf-numbers" });
    root.append(
      element("div", { class: "rlhf-row" }, element("label", { class: "rlhf-wide" }, "Opening ", opening), other, list),
      element("div", { class: "rlhf-row" }, element("label", { class: "rlhf-wide" }, "From SFT to PPO ", slider), sliderText),
      element("div", { class: "rlhf-row" }, whole, step, again, back),
      say, text, numbers, next,
      element("div", { class: "rlhf-row" }, button(`Average over ${BATCH} texts`, average)), averaged,
      element("div", { class: "rlhf-curves" }, drawing), measured,
      details("Each token of the response", record),
      details("The averages as a table", averagesTable()),
    );
    opening.addEventListener("input", restart);
    slider.addEventListener("input", () => {
      // The same dice: what changes is the policy alone.
      const written = draft?.steps.length ?? 0;
      const going = text.ariaBusy === "true";
      batch += 1;
      stop();
      if (draft && written) {
        roll = rlhf.dice(seed);
        const whole = draft.ended;
        draft = new Draft([sft, ppo], draft.prompt);
        while (!draft.ended && (whole || draft.steps.length < written)) draft.write(share(), roll());
      }
      averaged.textContent = "";
      if (going && draft && !draft.ended) write();
      else show();
    });
    restart();
    whole.focus({ preventScroll: true });
  }

  function averagesTable() {
    const keys = ["share", "reward", "gold", "kl"];
    const head = ["λ", "reward", "gold score", "KL, nats"];
    const rows = facts.curve.map((point) => element("tr", {}, ...keys.map((key) => {
      const error = point[`${key}_error`];
      return element("td", { class: "number" }, key === "share" ? fixed(point.share, 1) : `${fixed(point[key])} ± ${fixed(error)}`);
    })));
    return element("table", {}, element("thead", {}, element("tr", {}, ...head.map((h) => element("th", { scope: "col" }, h)))), element("tbody", {}, ...rows));
  }

  // ---- the reward model reads ----

  function scoring(root) {
    const area = element("textarea", { rows: 3, spellcheck: "false", maxlength: 600 });
    area.value = "this film is tender but the plot is dull .";
    const say = element("p", { class: "rlhf-note", role: "status" });
    const result = element("div", { class: "rlhf-next" });
    const start = button(`Fetch the reward model (${megabytes("reward")} MB) and read`, () => read());
    let wanted = 0;

    async function read() {
      const mine = (wanted += 1);
      try {
        const reader = await model("reward");
        if (mine === wanted) show(reader);
        start.replaceWith();
      } catch (error) {
        say.textContent = `That didn't work: ${error.message}. Try again.`;
      }
    }

    function show(reader) {
      const words = vocabulary.split(area.value);
      const most = facts.config.context - 1;
      result.replaceChildren();
      say.textContent = "";
      if (!words.length) { say.textContent = "Type at least one word."; return; }
      if (words.length > most) { say.textContent = `The model reads ${most} words at most; the text has ${words.length}.`; return; }
      const unknown = vocabulary.unknown(area.value);
      if (unknown.length) say.textContent = `Not in the model's vocabulary: ${unknown.join(", ")}. It reads ${unknown.length > 1 ? "each" : "it"} as “unknown word”.`;
      const scores = scoresOf(reader, vocabulary.encode(area.value));
      const most_ = Math.max(1, ...scores.map(Math.abs));
      const rows = words.map((word, i) => {
        const change = i ? scores[i] - scores[i - 1] : scores[i];
        const kind = scores[i] < 0 ? "less" : "more";
        return element("tr", {}, element("th", { scope: "row" }, word, vocabulary.find(word) === undefined ? " (unknown)" : ""),
          element("td", {}, bar(Math.abs(scores[i]) / most_, kind), element("span", {}, fixed(scores[i]))),
          element("td", { class: "number" }, i ? (change > 0 ? "+" : "") + fixed(change) : ""));
      });
      result.append(element("table", { class: "rlhf-candidates" },
        element("caption", {}, `Score of the whole text: ${fixed(scores.at(-1))}`),
        element("thead", {}, element("tr", {}, ...["word", "score if the text ended here", "change"].map((h) => element("th", { scope: "col" }, h)))),
        element("tbody", {}, ...rows)));
    }

    area.addEventListener("input", () => "reward" in ready && read());
    root.append(element("label", { class: "rlhf-wide" }, "A text of your own ", area), element("div", { class: "rlhf-row" }, start), say, result);
  }

  const parts = { playground, scoring };
  for (const root of document.querySelectorAll(".rlhf-alive[data-part]")) parts[root.dataset.part]?.(root);
})();
