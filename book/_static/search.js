// Shows what stands around the words that were searched for. Sphinx would fetch each page
// for that, which a browser forbids for files; book-text.js holds the text instead.
"use strict";

const AROUND = 90; // letters before and after
const words = (new URLSearchParams(location.search).get("q") ?? "")
  .toLowerCase()
  .split(/[^\p{Letter}\p{Number}_]+/u)
  .filter((word) => word.length > 1);

function excerpt(text) {
  const low = text.toLowerCase();
  const places = words.map((word) => low.indexOf(word)).filter((at) => at >= 0);
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
  const line = excerpt(globalThis.bookText?.[page] ?? "");
  if (line) item.append(line);
}

const results = document.querySelector("#search-results");
new MutationObserver(() => {
  results.querySelectorAll("ul.search > li").forEach(explain);
}).observe(results, { childList: true, subtree: true });
