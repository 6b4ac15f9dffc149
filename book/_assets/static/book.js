// What is wider than its box can be scrolled by key as well: it takes the focus while it is, and not otherwise.
"use strict";

(() => {
  const observer = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.scrollWidth > target.clientWidth && target.clientWidth > 0) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  const boxes = "pre, .math-scroll, .math-long, .pst-scrollable-table-container, table.table";
  for (const box of document.querySelectorAll(`.bd-article :is(${boxes})`)) observer.observe(box);
})();
