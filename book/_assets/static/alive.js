// What the pages that are alive build their controls and numbers with.
"use strict";

var alive = (() => {
  // Attributes that are true stand without a value; those that are false or null are left out.
  function filled(made, attributes, children) {
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== false && value !== null) made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children);
    return made;
  }

  const element = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);
  const within = (space) => (name, attributes = {}, ...children) => filled(document.createElementNS(space, name), attributes, children);
  const svg = within("http://www.w3.org/2000/svg");
  const math = within("http://www.w3.org/1998/Math/MathML");

  function button(text, action, attributes = {}) {
    const made = element("button", { type: "button", class: "rlhf-button", ...attributes }, text);
    made.addEventListener("click", action);
    return made;
  }

  const details = (title, ...inside) => element("details", {}, element("summary", {}, title), ...inside);

  // A number with a real minus, and never "−0.00".
  function fixed(value, digits = 2) {
    const text = value.toFixed(digits);
    return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
  }

  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const mean = (values) => sum(values) / values.length;

  // The standard error of a mean.
  function error(values) {
    const m = mean(values);
    return Math.sqrt(sum(values.map((v) => (v - m) ** 2)) / Math.max(1, values.length - 1) / values.length);
  }

  return { element, svg, math, button, details, fixed, sum, mean, error };
})();
