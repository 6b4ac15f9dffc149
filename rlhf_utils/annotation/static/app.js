// Keys for judging, and patience: a judgement that the server can't keep now is sent again until it is kept.
//
// A judgement carries the token of its showing, so sending it twice keeps it once. Without this script the page's forms
// do the same by hand.
"use strict";

(() => {
  const form = document.getElementById("judge");
  const undo = document.getElementById("undo");
  const status = document.getElementById("status");
  const help = document.getElementById("keys");
  const keysOn = document.getElementById("keys-on");
  const shown = performance.now();
  const KEPT = "annotate-keys";
  const LONGEST_WAIT = 30; // seconds between two tries
  const CHOICES = { ArrowLeft: "a", 1: "a", ArrowRight: "b", 2: "b", t: "tie", s: "skip" };
  let busy = false;
  let unsaved = false;

  const sleep = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

  // Hand the form to the browser, which shows whatever the server has to say. A repeated judgement counts once.
  function sendPlainly(choice) {
    const field = document.createElement("input");
    Object.assign(field, { type: "hidden", name: "choice", value: choice });
    form.append(field);
    form.submit();
  }

  async function judge(choice) {
    if (busy) return;
    busy = true;
    form.elements.seconds.value = ((performance.now() - shown) / 1000).toFixed(3);
    const body = new URLSearchParams(new FormData(form));
    body.set("choice", choice);
    status.textContent = "";
    for (let wait = 1; ; wait = Math.min(2 * wait, LONGEST_WAIT)) {
      let why = "The server doesn't answer.";
      try {
        const reply = await fetch(form.action, { method: "POST", body, redirect: "manual" });
        unsaved = !(reply.type === "opaqueredirect" || reply.status < 500);
        if (reply.type === "opaqueredirect") return location.replace("/judge"); // kept
        if (reply.status < 500) return sendPlainly(choice); // refused, and its page says why
        if (reply.status === 507) why = "The server's disk is full.";
      } catch {
        unsaved = true; // no connection
      }
      status.textContent = `${why} Your judgement isn't kept yet. Leave this page open: it is sent again in ${wait} s.`;
      await sleep(wait);
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    judge(event.submitter.value);
  });
  undo?.addEventListener("submit", (event) => {
    if (busy) event.preventDefault();
    busy = true;
  });
  addEventListener("beforeunload", (event) => {
    if (unsaved) event.preventDefault();
  });
  addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload(); // the browser's Back shows what is there now
  });

  try {
    keysOn.checked = localStorage.getItem(KEPT) !== "off";
  } catch {
    // no storage: the keys are on
  }
  keysOn.addEventListener("change", () => {
    try {
      localStorage.setItem(KEPT, keysOn.checked ? "on" : "off");
    } catch {
      // until the next page, then
    }
  });
  help.hidden = false;
  addEventListener("keydown", (event) => {
    if (!keysOn.checked || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key === "u" && undo && !busy) undo.requestSubmit();
    else if (key in CHOICES) judge(CHOICES[key]);
    else return;
    event.preventDefault();
  });
})();
