// The staff's page shows what is new by itself. Only what changes is put in place, so that focus and scrolling stay.
// Without this script the page stands still until it is loaded again.
"use strict";

(() => {
  const live = document.getElementById("live");
  const on = document.getElementById("live-on");
  const status = document.getElementById("status");
  const CHANGING = ["sum", "figures", "people"]; // ids

  async function look() {
    if (!on.checked || document.hidden) return;
    let there;
    try {
      const reply = await fetch("/staff");
      if (!reply.ok) throw new Error(reply.statusText);
      there = new DOMParser().parseFromString(await reply.text(), "text/html");
    } catch {
      status.textContent = "The server doesn't answer; these figures are old.";
      return;
    }
    if (!CHANGING.every((id) => there.getElementById(id))) return location.reload(); // the session has ended
    for (const id of CHANGING) document.getElementById(id).replaceChildren(...there.getElementById(id).childNodes);
    document.title = there.title;
    status.textContent = "";
  }

  live.hidden = false;
  setInterval(look, 1000 * live.dataset.seconds);
})();
