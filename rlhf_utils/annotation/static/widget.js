// Two texts, five answers. What was pressed goes to Python with the token of the pair that was seen; Python keeps it
// and sends the next pair. Texts are set as text, never as HTML.

const KEYS = {
  1: "a", ArrowLeft: "a", 2: "b", ArrowRight: "b", 3: "tie", t: "tie", s: "skip", u: "undo",
};
const BUTTONS = [
  ["a", "Left is better", "1"],
  ["tie", "About the same", "3"],
  ["b", "Right is better", "2"],
  ["skip", "Skip", "S"],
  ["undo", "Undo", "U"],
];

function element(tag, name, text = "") {
  const made = document.createElement(tag);
  made.className = name;
  made.textContent = text;
  return made;
}

function render({ model, el }) {
  const box = element("div", "rlhf-judge");
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "Which text is better?");
  // JupyterLab looks for its own shortcuts on the way up from what has the focus, and stops at this mark.
  box.dataset.lmSuppressShortcuts = "true";

  const head = element("p", "rlhf-judge-head");
  const bar = document.createElement("progress");
  const count = element("span", "rlhf-judge-count");
  count.setAttribute("aria-live", "polite");
  head.append(bar, count);
  const ask = element("p", "rlhf-judge-ask");
  const prompt = element("p", "rlhf-judge-prompt");
  const sides = element("div", "rlhf-judge-sides");
  const texts = ["Left", "Right"].map((name) => {
    const side = element("section", "rlhf-judge-side");
    const text = element("p", "rlhf-judge-text");
    side.setAttribute("aria-label", name);
    side.append(element("h4", "rlhf-judge-name", name), text);
    sides.append(side);
    return text;
  });
  const row = element("div", "rlhf-judge-buttons");
  const buttons = BUTTONS.map(([act, label, key]) => {
    const button = element("button", "rlhf-judge-button", label);
    button.type = "button";
    button.append(" ", element("kbd", "rlhf-judge-key", key));
    button.addEventListener("click", () => send(act));
    row.append(button);
    return [act, button];
  });
  const told = element("p", "rlhf-judge-told");
  told.setAttribute("role", "status");
  const keys = element("p", "rlhf-judge-keys", "Click into this box once; then the keys 1, 2, 3, S, U and ← → work.");
  box.append(head, ask, prompt, sides, row, told, keys);
  el.append(box);

  let since = performance.now();
  let token = null;
  let waits = false;

  function send(act) {
    const state = model.get("state");
    if (act === "undo") {
      if (state.undo) model.send({ do: "undo" });
      return;
    }
    if (waits || !state.token) return;
    waits = true;
    model.send({ do: "judge", choice: act, token: state.token, seconds: (performance.now() - since) / 1000 });
  }

  function show() {
    const state = model.get("state");
    waits = false;
    if (state.token !== token) since = performance.now();
    token = state.token;
    const done = !state.token;
    ask.textContent = done ? "That was all. Thank you." : state.instructions;
    prompt.textContent = state.prompt;
    prompt.hidden = !state.prompt;
    texts[0].textContent = state.left.trimStart(); // a response begins with the space that joins it to its prompt
    texts[1].textContent = state.right.trimStart();
    sides.hidden = done;
    bar.max = state.goal || 1;
    bar.value = state.judged;
    count.textContent = ` ${state.judged} of ${state.goal}`;
    told.textContent = state.message;
    for (const [act, button] of buttons) button.disabled = act === "undo" ? !state.undo : done;
  }

  function press(event) {
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    event.preventDefault();
    event.stopPropagation();
    send(act);
  }

  box.addEventListener("keydown", press);
  model.on("change:state", show);
  show();
  return () => model.off("change:state", show);
}

export default { render };
