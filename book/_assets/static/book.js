// What is wider than its box can be scrolled by key as well: it takes the focus while it is, and not otherwise.
"use strict";

(() => {
  const observer = new ResizeObserver((entries) => {
    // All widths are read before anything is changed, or the browser would lay out the page anew for each box.
    const wide = entries.map(({ target }) => target.clientWidth > 0 && target.scrollWidth > target.clientWidth);
    entries.forEach(({ target }, i) => {
      if (wide[i]) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    });
  });
  const boxes = "pre, .math-scroll, .math-long, .pst-scrollable-table-container, table.table";
  for (const box of document.querySelectorAll(`.bd-article :is(${boxes})`)) observer.observe(box);
})();
