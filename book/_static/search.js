// Search. While a reader types, parts of pages are listed under the field; on the search
// page Sphinx lists pages, and what stands around the words is shown under each. Sphinx
// would fetch every page for that, which a browser forbids for files: book-text.js holds
// the text (bookText: a page's words; bookParts: its parts, as begin, anchor, heading).
"use strict";

const AROUND = 90; // letters before and after
const MOST = 12; // parts that are listed while typing
const MOST_OF_A_PAGE = 3;
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
const root = document.documentElement.dataset.content_root ?? "";

const wordsOf = (query) =>
  query
    .toLowerCase()
    .split(/[^\p{Letter}\p{Number}_]+/u)
    .filter(Boolean);

function make(name, className, ...children) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function marked(text, words) {
  const pattern = new RegExp(`(${words.join("|")})`, "iu");
  return text
    .split(pattern)
    .map((part) => (words.includes(part.toLowerCase()) ? make("mark", "", part) : part));
}

function excerpt(text, words) {
  const low = text.toLowerCase();
  const phrase = low.indexOf(words.join(" ")); // the words side by side come first
  const each = words.map((word) => low.indexOf(word));
  const places = (phrase < 0 ? each : [phrase]).filter((at) => at >= 0);
  if (!places.length) return null;
  const from = Math.max(0, Math.min(...places) - AROUND);
  const piece = text.slice(from, from + 2 * AROUND).trim();
  return make("p", "excerpt", ...marked(`${from ? "… " : ""}${piece} …`, words));
}

// --- while typing -----------------------------------------------------------------------

const KINDS = [
  ["glossary", 25],
  ["chapters/", 15],
  ["api/detr_steps.check", -20], // the exercises' judges, named as what they judge
  ["api/", 0],
  ["changes/", -10],
];
const starts = (word) => new RegExp(`(?<![\\p{L}\\p{N}])${word}`, "u");

let parts = null; // of all pages, made when the text is there

function readParts() {
  const list = [];
  for (const [page, text] of Object.entries(globalThis.bookText)) {
    const known = globalThis.bookParts[page];
    const title = known[0]?.[2] ?? page;
    const kind = KINDS.find(([begins]) => page.startsWith(begins))?.[1] ?? 5;
    known.forEach(([begin, anchor, heading], index) => {
      let next = index + 1; // terms side by side share what follows the last of them
      while (known[next] && text.slice(known[next - 1][0], known[next][0]).trim() ===
        known[next - 1][2]) next++;
      const inside = text.slice(begin, known[next]?.[0]);
      const low = inside.toLowerCase();
      list.push({ page, title, kind, anchor, heading, inside, low, order: index });
    });
  }
  return list;
}

// How well a part answers; 0 where a word is missing.
function score(part, words, patterns) {
  if (!words.every((word) => part.low.includes(word))) return 0;
  if (!patterns.every((pattern) => pattern.test(part.low))) return 0;
  const heading = part.heading.toLowerCase();
  const asked = words.join(" ");
  let points = 20 + part.kind;
  if (patterns.every((pattern) => pattern.test(heading))) points += 40;
  if (heading.startsWith(asked)) points += 20;
  if (heading === asked) points += 40;
  if (part.low.includes(asked)) points += 8;
  return points + Math.min(8, part.low.split(words[0]).length) - Math.min(3, part.order);
}

function find(query) {
  const words = wordsOf(query);
  if (!words.length || (words.length === 1 && words[0].length < 2)) return [];
  const patterns = words.map(starts);
  const each = new Map();
  return parts
    .map((part) => ({ part, points: score(part, words, patterns) }))
    .filter(({ points }) => points)
    .sort((a, b) => b.points - a.points)
    .map(({ part }) => part)
    .filter(({ page }) => {
      each.set(page, (each.get(page) ?? 0) + 1);
      return each.get(page) <= MOST_OF_A_PAGE;
    });
}

function item(part, words) {
  const anchor = part.order ? `#${part.anchor}` : "";
  const link = make("a", "", make("b", "", ...marked(part.heading, words)));
  link.href = `${root}${part.page}.html${anchor}`;
  if (part.order) link.append(make("span", "where", part.title));
  const { heading, inside } = part;
  const rest = inside.startsWith(heading) ? inside.slice(heading.length) : inside;
  link.append(excerpt(rest, words) ?? make("p", "excerpt", rest.slice(0, 2 * AROUND)));
  return make("li", "", link);
}

function typing(dialog) {
  const field = dialog.querySelector("input[name=q]");
  const list = make("ol", "found");
  const said = make("p", "said");
  said.setAttribute("role", "status");
  list.id = "book-found";
  field.setAttribute("aria-controls", list.id);
  dialog.append(said, list);

  function show() {
    const query = OTHER_NAMES[field.value.trim().toLowerCase()] ?? field.value;
    const words = wordsOf(query);
    if (!parts) return;
    const found = find(query);
    const more = make("a", "", "Search the whole text");
    more.href = `${root}search.html?q=${encodeURIComponent(field.value)}`;
    list.replaceChildren(...found.slice(0, MOST).map((part) => item(part, words)));
    if (words.length) list.append(make("li", "more", more));
    const other = query === field.value ? "" : `Here it is called ${query}. `;
    const none = found.length ? "" : "Nothing here has these words.";
    said.textContent = words.length && field.value.trim().length > 1 ? other + none : "";
  }

  function load() {
    if (globalThis.bookText) {
      parts ??= readParts();
      return show();
    }
    if (document.querySelector("#book-text")) return; // on its way
    const script = make("script");
    script.id = "book-text";
    script.src = `${root}_static/book-text.js`;
    script.addEventListener("load", load);
    document.head.append(script);
  }

  function step(event) {
    const way = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!way) return;
    const stops = [field, ...list.querySelectorAll("a")];
    const next = stops[stops.indexOf(document.activeElement) + way];
    event.preventDefault();
    next?.focus();
  }

  field.addEventListener("focus", load);
  field.addEventListener("input", load);
  dialog.addEventListener("keydown", step);
}

const dialog = document.querySelector("#pst-search-dialog");
if (dialog) typing(dialog);

// --- the search page --------------------------------------------------------------------

function explain(item, words, pages) {
  const link = item.querySelector("a");
  if (!link || item.dataset.explained) return;
  item.dataset.explained = "yes";
  link.innerHTML = link.innerHTML.replaceAll(".", ".<wbr>"); // detr_steps.nn.attention
  const page = link.getAttribute("href").split("#")[0].replace(/\.html$/, "");
  const isWhole = !item.matches(".kind-object, .kind-title"); // those lead to a part
  if (isWhole && pages.has(page)) return item.remove(); // listed once is enough
  pages.add(page);
  const line = excerpt(globalThis.bookText?.[page] ?? "", words);
  if (line) item.append(line);
}

function explainAll(results) {
  const query = new URLSearchParams(location.search).get("q") ?? "";
  const words = wordsOf(query).filter((word) => word.length > 1);
  const called = OTHER_NAMES[words.join(" ")];
  if (called) {
    const link = make("a", "", called);
    link.href = `?q=${encodeURIComponent(called)}`;
    results.before(make("p", "called", "Here it is called ", link, "."));
  }
  const pages = new Set(); // already listed
  new MutationObserver(() => {
    const items = results.querySelectorAll("ul.search > li");
    items.forEach((item) => explain(item, words, pages));
  }).observe(results, { childList: true, subtree: true });
}

const results = document.querySelector("#search-results");
if (results) explainAll(results);
