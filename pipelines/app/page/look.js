// Look: filters, pages, grid and list

import { at, count, frameImage, get, given, link, make, number, ofRun, query, say, state, tag } from "./common.js";
import { painted } from "./masks.js";

export const PAGE = 48;
const tags = (row) => [tag(row.status), row.outcome === "unjudged" ? null : tag(row.outcome)];

function remember() {
  const wanted = Object.entries({ ...query(), offset: state.offset || "" }).filter(([, value]) => value !== "");
  history.replaceState(null, "", `/${wanted.length ? "?" + new URLSearchParams(wanted) : ""}${location.hash}`);
}

export async function look() {
  const { layout, ...wanted } = query(), mine = (state.looking = {});
  remember();
  const page = await get(ofRun("/rows"), { ...wanted, offset: state.offset, limit: PAGE });
  if (mine !== state.looking) return; // another page was asked for meanwhile
  if (page.offset && page.offset >= page.total) {
    state.offset = 0;
    await look();
    return;
  }
  state.total = page.total;
  const last = page.offset + page.rows.length;
  at("range").textContent = page.total ? `${count(page.offset + 1)} to ${count(last)} of ${count(page.total)}` : "none";
  for (const button of document.querySelectorAll("[data-page]")) {
    button.disabled = ["first", "back"].includes(button.dataset.page) ? !page.offset : last >= page.total;
  }
  const { instructions, videos, statuses } = state.facts;
  const parts = Object.entries(statuses).map(([name, found]) => `${count(found)} ${name}`);
  at("counts").textContent = `${count(instructions)} instructions of ${count(videos)} videos: ${parts.join(", ")}`;
  const shown = layout === "list" ? listOf(page.rows) : gridOf(page.rows);
  const none = () => make("p", { className: "nothing", textContent: "No instruction fits these filters." });
  at("rows").replaceChildren(page.rows.length ? shown : none());
}

// Cards whose pictures are fetched when they come near the screen.
function gridOf(rows) {
  const rowOf = new Map();
  const observer = new IntersectionObserver((seen) => {
    const near = seen.filter((one) => one.isIntersecting).map((one) => one.target);
    near.forEach((canvas) => observer.unobserve(canvas));
    if (near.length) thumbnails(near.map((canvas) => rowOf.get(canvas)), near).catch((error) => say(error.message));
  }, { rootMargin: "200px" });
  const cards = rows.map((row) => {
    const canvas = make("canvas", { width: 320, height: 180 });
    rowOf.set(canvas, row);
    observer.observe(canvas);
    const facts = [
      row.video_id, given(row.presence) ? `presence ${number(row.presence)}` : "",
      row.num_objects > 1 ? `${row.num_objects} objects` : "", given(row.score) ? `J&F ${number(row.score, 1)}` : "",
    ];
    const words = make("p", { className: "words", textContent: row.text || "(no text)" });
    const small = make("small", { textContent: facts.filter(Boolean).join(" · ") });
    return make("a", { className: "card", href: link(row) }, canvas, make("div", {}, words, ...tags(row), small));
  });
  return make("div", { className: "grid" }, ...cards);
}

async function thumbnails(rows, canvases) {
  const found = await get(ofRun("/thumbnails"), { rows: rows.map((row) => row.row).join(",") });
  const name = (row) => JSON.stringify([row.video_id, row.instruction_id]);
  const byName = new Map(found.map((one) => [name(one), one]));
  await Promise.all(rows.map(async (row, place) => {
    const one = byName.get(name(row)), canvas = canvases[place];
    if (!one || !row.num_frames) return;
    const image = await frameImage(row, one.frame, 320).catch((error) => {
      canvas.title = error.message;
      return null;
    });
    canvas.height = image ? image.height : row.height;
    canvas.width = image ? image.width : row.width;
    const context = canvas.getContext("2d");
    if (image) context.drawImage(image, 0, 0);
    if (one.masks.length) context.drawImage(painted(one.masks, 0.55), 0, 0, canvas.width, canvas.height);
    canvas.dataset.drawn = one.masks.length;
  }));
}

function listOf(rows) {
  const measured = state.facts.sorts.filter((name) => !["presence", "objects"].includes(name));
  const signals = measured.filter((name) => rows.some((row) => given(row[name])));
  const answers = rows.some((row) => row.answer);
  const head = ["text", "video", "status", "presence", "objects", "frames", ...signals, ...(answers ? ["answer"] : [])];
  const body = rows.map((row) => {
    const numbers = [
      number(row.presence), row.num_objects ?? "", row.num_frames ?? "",
      ...signals.map((name) => number(row[name], name === "score" ? 1 : 3)),
    ];
    return make("tr", {},
      make("td", { className: "words" }, make("a", { href: link(row), textContent: row.text || "(no text)" })),
      make("td", { textContent: row.video_id }),
      make("td", { className: "tags" }, ...tags(row)),
      ...numbers.map((text) => make("td", { className: "number", textContent: text })),
      answers ? make("td", { className: "words", textContent: row.answer || "" }) : null);
  });
  const names = head.map((name) => make("th", { textContent: name.replace("_", " ") }));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...names)), make("tbody", {}, ...body));
  return make("div", { className: "table" }, table);
}
