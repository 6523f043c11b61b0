// Tells the figures, which live in frames of their own, whether the page is dark.
"use strict";

const page = document.documentElement;

function tell(frame) {
  frame.contentWindow?.postMessage({ type: "theme", value: page.dataset.theme }, "*");
}

function tellAll() {
  document.querySelectorAll("iframe").forEach(tell);
}

for (const frame of document.querySelectorAll("iframe")) {
  frame.addEventListener("load", () => tell(frame));
}
new MutationObserver(tellAll).observe(page, { attributeFilter: ["data-theme"] });
tellAll(); // those that were loaded before this script

// The folds' own words say what they hold; the theme's label would hide them.
for (const summary of document.querySelectorAll("details.hide > summary")) {
  summary.removeAttribute("aria-label");
}

// A wide figure scrolls in a frame of its own on a phone, and says so; a tap shows it by
// itself, to be zoomed.
const widths = new ResizeObserver((seen) => {
  for (const { target } of seen) {
    const link = target.closest("a.figure");
    link.nextElementSibling.hidden = link.scrollWidth <= link.clientWidth + 1;
  }
});
for (const image of document.querySelectorAll(".cell_output > img")) {
  const link = document.createElement("a");
  link.href = image.src;
  link.className = "figure";
  link.title = "Show this figure by itself";
  const hint = document.createElement("small");
  hint.className = "swipe";
  hint.hidden = true;
  hint.textContent = "Swipe to see the rest, tap to see it by itself.";
  for (const only of ["only-light", "only-dark"]) {
    link.classList.toggle(only, image.classList.contains(only));
  }
  image.replaceWith(link);
  link.append(image);
  link.after(hint);
  widths.observe(link);
  widths.observe(image);
}

// Long names break between their parts rather than anywhere: in titles after a dot, in
// narrow columns also after underscores and before capitals.
const DOTS = /(?<=\w\w\.)(?=[A-Za-z_])/;
const PARTS = RegExp(
  `${DOTS.source}|(?<=[a-z\\d]_+)(?=[a-z\\d])|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])`,
);
const breaks = {
  "h1, h2, h3, dt.sig": DOTS,
  "nav, .prev-next-title, table code": PARTS,
};

function mayBreak(element, places) {
  const texts = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  const found = [];
  while (texts.nextNode()) found.push(texts.currentNode);
  for (const text of found) {
    const parts = text.data.split(places);
    const pieces = parts.flatMap((part) => [document.createElement("wbr"), part]);
    if (parts.length > 1) text.replaceWith(...pieces.slice(1));
  }
}

for (const [names, places] of Object.entries(breaks)) {
  document.querySelectorAll(names).forEach((element) => mayBreak(element, places));
}

// Paper is light, whatever the screen is.
let onScreen;
addEventListener("beforeprint", () => {
  onScreen = page.dataset.theme;
  page.dataset.theme = "light";
});
addEventListener("afterprint", () => {
  page.dataset.theme = onScreen;
});
