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

// A wide figure is small on a phone: a tap shows it by itself, to be zoomed.
for (const image of document.querySelectorAll(".cell_output > img")) {
  const link = document.createElement("a");
  link.href = image.src;
  link.className = "figure";
  link.title = "Show this figure by itself";
  image.replaceWith(link);
  link.append(image);
}
