// Shows what stands around the words that were searched for. Sphinx would fetch each page
// for that, which a browser forbids for files; book-text.js holds the text instead.
"use strict";

const AROUND = 90; // letters before and after
const words = (new URLSearchParams(location.search).get("q") ?? "")
  .toLowerCase()
  .split(/[^\p{Letter}\p{Number}_]+/u)
  .filter((word) => word.length > 1);

const pages = new Set(); // already listed
const OTHER_NAMES = {
  "positional encoding": "positions",
  "positional encodings": "positions",
  "positional embedding": "positions",
  "position embedding": "positions",
  "box_iou": "iou",
  "generalized_box_iou": "giou",
  "box_convert": "cxcywh_to_xyxy",
  "map": "AP",
};

function excerpt(text) {
  const low = text.toLowerCase();
  const phrase = low.indexOf(words.join(" ")); // the words side by side come first
  const each = words.map((word) => low.indexOf(word));
  const places = (phrase < 0 ? each : [phrase]).filter((at) => at >= 0);
  if (!places.length) return null;
  const from = Math.max(0, Math.min(...places) - AROUND);
  const piece = text.slice(from, from + 2 * AROUND);
  const line = document.createElement("p");
  line.className = "excerpt";
  const pattern = new RegExp(`(${words.join("|")})`, "iu");
  for (const part of `${from ? "… " : ""}${piece.trim()} …`.split(pattern)) {
    const isWord = words.includes(part.toLowerCase());
    const node = isWord ? document.createElement("mark") : new Text(part);
    if (isWord) node.textContent = part;
    line.append(node);
  }
  return line;
}

function explain(item) {
  const link = item.querySelector("a");
  if (!link || item.dataset.explained) return;
  item.dataset.explained = "yes";
  link.innerHTML = link.innerHTML.replaceAll(".", ".<wbr>"); // detr_steps.nn.attention
  const page = link.getAttribute("href").split("#")[0].replace(/\.html$/, "");
  const isWhole = !item.matches(".kind-object, .kind-title"); // those lead to a part
  if (isWhole && pages.has(page)) return item.remove(); // listed once is enough
  pages.add(page);
  const line = excerpt(globalThis.bookText?.[page] ?? "");
  if (line) item.append(line);
}

const results = document.querySelector("#search-results");
const called = OTHER_NAMES[words.join(" ")];
if (called) {
  const line = document.createElement("p");
  const link = document.createElement("a");
  link.href = `?q=${encodeURIComponent(called)}`;
  link.textContent = called;
  line.className = "called";
  line.append("Here it is called ", link, ".");
  results.before(line);
}
new MutationObserver(() => {
  results.querySelectorAll("ul.search > li").forEach(explain);
}).observe(results, { childList: true, subtree: true });
