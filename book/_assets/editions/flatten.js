// Turns a page of the site into one that needs no script and no other page's layout, for the PDF and the EPUB.
//
// Runs in the page, in which all figures have been drawn. `page` is its name, `pages` are the names of all pages of the edition,
// `root` is the site's address. All ids get the page's name before them, so that pages can stand in one document, and links
// between pages become links to such ids. Returns title, sections, figures as SVG by file name, and the article as XHTML.
async ({ page, pages, root }) => {
  const WIDTH = 690; // of a drawn figure, in its own pixels
  const article = document.querySelector("article");
  const canonical = document.querySelector("link[rel=canonical]")?.href;
  const keyOf = (name) => name.replaceAll("/", "-");
  const key = keyOf(page);
  const all = (selector) => [...article.querySelectorAll(selector)];
  const make = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
    made.append(...children);
    return made;
  };

  // ---- figures ----

  const figures = {};
  for (const figure of all(".rlhf-figure")) {
    const box = figure.querySelector(".rlhf-plot");
    const url = await Plotly.toImage(box, { format: "svg", width: WIDTH, height: box.clientHeight });
    const name = `${key}-${figure.id}.svg`;
    const drawn = new DOMParser().parseFromString(decodeURIComponent(url.slice(url.indexOf(",") + 1)), "image/svg+xml");
    for (const empty of drawn.querySelectorAll("path:not([d])")) empty.remove();
    figures[name] = new XMLSerializer().serializeToString(drawn);
    if (figure.querySelector(".rlhf-sliders")) {
      figure.querySelector("figcaption").append(" On the web this figure has a slider.");
    }
    box.replaceWith(make("img", { src: `figures/${name}`, alt: box.getAttribute("aria-label") }));
  }

  // ---- what is alive or folded ----

  for (const part of all(".rlhf-alive")) {
    const told = "This part of the page works on the web only.";
    part.replaceWith(make("p", { class: "rlhf-web-only" }, canonical ? make("a", { href: canonical }, told) : told));
  }

  // Answers stand at the page's end, where they can't be read along with the question.
  const quizzes = all(".rlhf-quiz");
  const answers = make("section", { id: "answers", class: "rlhf-answers" }, make("h2", {}, "Answers"));
  for (const quiz of quizzes) {
    const options = [...quiz.querySelectorAll("details")];
    const [title] = quiz.getElementsByClassName("rlhf-quiz-title");
    const explained = make("ol", { class: "rlhf-letters" });
    const choices = make("ol", { class: "rlhf-letters" });
    for (const option of options) {
      const [summary, ...explanation] = option.children;
      choices.append(make("li", {}, ...summary.childNodes));
      explained.append(make("li", {}, ...explanation));
      option.remove();
    }
    const back = make("a", { href: `#${quiz.id}` }, title.textContent);
    answers.append(make("div", { id: `${quiz.id}-answer` }, make("p", { class: "rlhf-quiz-title" }, back), explained));
    title.append(" (", make("a", { href: `#${quiz.id}-answer` }, "answer"), ")");
    quiz.append(choices);
  }
  if (quizzes.length) (article.querySelector("section") ?? article).append(answers);

  const away = "script, noscript, button, .headerlink, .rlhf-data, .rlhf-sliders, .rlhf-cite, .prev-next-footer, summary";
  for (const element of all(away)) element.remove();
  // A list of definitions that defines nothing, as Sphinx writes the parameters of a function.
  for (const list of all("dl:not(:has(> dt))")) {
    for (const item of [...list.children]) item.replaceWith(make("div", { class: "rlhf-indented" }, ...item.childNodes));
    list.replaceWith(make("div", {}, ...list.childNodes));
  }
  // What pandoc says of brackets' sizes also where TeX has a letter in a bracket's place; MathML knows it of operators only.
  for (const element of all("math :not(mo)")) {
    for (const name of ["stretchy", "minsize", "maxsize"]) element.removeAttribute(name);
  }
  // A formula's name, in the words of books rather than of pages.
  for (const formula of all("math[aria-label]")) {
    formula.setAttribute("alttext", formula.getAttribute("aria-label"));
    formula.removeAttribute("aria-label");
  }
  for (const fold of all("details")) fold.replaceWith(make("div", { class: fold.className }, ...fold.childNodes));
  for (const element of all(".toggle-hidden")) element.classList.remove("toggle-hidden");
  for (const element of all("[tabindex], [onclick]")) {
    element.removeAttribute("tabindex");
    element.removeAttribute("onclick");
  }

  // ---- ids and links ----

  const inside = (hash) => (hash ? `#${key}--${hash}` : `#${key}`);
  for (const link of all("a[href]")) {
    const url = new URL(link.getAttribute("href"), location.href);
    if (!url.href.startsWith(root)) continue;
    const name = decodeURIComponent(url.pathname.slice(new URL(root).pathname.length)).replace(/\.html$/, "");
    const hash = decodeURIComponent(url.hash.slice(1));
    if (pages.includes(name)) link.setAttribute("href", hash ? `#${keyOf(name)}--${hash}` : `#${keyOf(name)}`);
    else if (canonical) link.href = new URL(link.getAttribute("href"), canonical).href;
    else link.replaceWith(...link.childNodes);
  }
  for (const element of all("[id]")) element.id = inside(element.id).slice(1);
  for (const element of all("svg *")) {
    for (const { name, value } of [...element.attributes]) {
      if (name === "href" && value.startsWith("#")) element.setAttribute(name, inside(value.slice(1)));
      else if (value.includes("url(#")) element.setAttribute(name, value.replaceAll("url(#", `url(#${key}--`));
    }
  }
  for (const name of ["aria-labelledby", "aria-describedby", "aria-controls", "for"]) {
    for (const element of all(`[${name}]`)) element.removeAttribute(name);
  }
  article.id = key;

  const textOf = (element) => element.textContent.replace(/\s+/g, " ").trim();
  const sections = all("section > h2").map((heading) => ({ id: heading.closest("[id]").id, title: textOf(heading) }));
  // Characters that XML doesn't know, such as the codes that colour a terminal.
  const xhtml = new XMLSerializer().serializeToString(article).replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, "");
  return { title: textOf(article.querySelector("h1")), sections, figures, xhtml };
}
