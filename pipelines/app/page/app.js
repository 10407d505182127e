// The page of `vrshq app`: which view is shown, and what keys and buttons do. Nothing is loaded from another host.

import { askView, dropped, question, stopAsking } from "./asking.js";
import { FIELDS, SORTS, at, get, make, ofRun, say, send, state } from "./common.js";
import { curves, pointed } from "./curves.js";
import { deliver, judge, judges, showJudgements } from "./judging.js";
import { PAGE, look } from "./look.js";
import { draw, go, openFilm, play, show, step, stop } from "./player.js";

const VIEWS = { look, ask: askView, judges };
const told = (promise) => promise.catch((error) => say(error.message));

// "#/video/instruction/frame", "#asked/RUN", "#asked/RUN/video/instruction/frame", "#ask", "#judges"
async function route() {
  stop();
  say("");
  const parts = location.hash.slice(1).split("/").map(decodeURIComponent), asked = parts[0] === "asked";
  const run = asked ? parts[1] : state.about.main, [video, instruction, frame] = parts.slice(asked ? 2 : 1);
  const named = parts[0] in VIEWS && !asked ? parts[0] : video === undefined ? "look" : "player";
  state.view = run ? named : "ask";
  state.film = null;
  if (state.view !== "ask" && run !== state.run) await openRun(run);
  for (const name of ["look", "player", "ask", "judges"]) at(name).hidden = name !== state.view;
  for (const name of Object.keys(VIEWS)) {
    const current = name === state.view || (name === "look" && state.view === "player");
    at(`tab-${name}`).toggleAttribute("aria-current", current);
  }
  for (const name of ["look", "judges"]) at(`tab-${name}`).hidden = !state.about.main;
  at("run-name").textContent = state.view === "ask" ? "" : state.facts.uri;
  if (state.view === "player") await openFilm(video, instruction, frame || undefined);
  else await VIEWS[state.view]();
}

async function openRun(run) {
  state.run = run;
  state.facts = await get(ofRun(""));
  const sort = at("filters").elements.sort, wanted = new URLSearchParams(location.search).get("sort") || "";
  const option = (name) => make("option", { value: name, textContent: SORTS[name] || name });
  sort.replaceChildren(...["", ...state.facts.sorts].map(option));
  sort.value = state.facts.sorts.includes(wanted) ? wanted : "";
  deliver();
}

// Keys of the player; those of the first group need frames.

const FILM_KEYS = {
  ArrowLeft: (event) => step(event.shiftKey ? -10 : -1),
  ArrowRight: (event) => step(event.shiftKey ? 10 : 1),
  " ": () => told(play()),
  Home: () => go("first"),
  End: () => go("last"),
  m: () => at("shown").click(),
};
const KEYS = {
  a: () => judge("accept"), r: () => judge("reject"), u: () => judge("unsure"), c: () => at("comment").focus(),
  n: () => at("next").hasAttribute("href") && at("next").click(),
  p: () => at("previous").hasAttribute("href") && at("previous").click(),
  Escape: () => at("to-list").click(),
};

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || state.view !== "player" || !state.film) return;
  if (event.target.matches("textarea, select, input:not([type=checkbox], [type=range])")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const act = KEYS[key] || (state.film.info.num_frames && FILM_KEYS[key]);
  if (!act) return;
  event.preventDefault();
  act(event);
}

function listenToLook() {
  let typed;
  const again = () => {
    state.offset = 0;
    told(look());
  };
  at("filters").addEventListener("input", () => {
    clearTimeout(typed);
    typed = setTimeout(again, 200);
  });
  at("filters").addEventListener("submit", (event) => {
    event.preventDefault();
    again();
  });
  at("refresh").addEventListener("click", async () => {
    await told(send("POST", ofRun("/refresh"), {}).then((facts) => { state.facts = facts; }));
    told(look());
  });
  const pages = {
    first: () => 0, back: () => state.offset - PAGE, on: () => state.offset + PAGE,
    last: () => Math.floor((state.total - 1) / PAGE) * PAGE,
  };
  for (const button of document.querySelectorAll("[data-page]")) {
    button.addEventListener("click", () => {
      state.offset = Math.max(0, pages[button.dataset.page]());
      told(look().then(() => scrollTo(0, 0)));
    });
  }
}

function listenToPlayer() {
  const film = () => state.view === "player" && state.film?.info.num_frames;
  const buttons = {
    first: () => go("first"), back: () => step(-1), play: () => told(play()), on: () => step(1), last: () => go("last"),
  };
  for (const [id, act] of Object.entries(buttons)) {
    at(id).addEventListener("click", () => {
      if (film()) act();
      at(id).blur(); // else the space bar would press it again
    });
  }
  at("frame").addEventListener("change", () => film() && go(at("frame").value));
  for (const id of ["shown", "opacity"]) at(id).addEventListener("input", () => film() && draw());
  for (const kind of ["pointerdown", "pointermove"]) {
    at("curves").addEventListener(kind, (event) => film() && event.buttons && go(pointed(event, state.film.info)));
  }
  addEventListener("resize", () => state.film && state.view === "player" && curves(state.film));
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.addEventListener("click", () => {
      judge(button.dataset.verdict);
      button.blur();
    });
  }
}

async function begin() {
  const given = new URLSearchParams(location.search);
  if (given.has("token")) {
    given.delete("token"); // the cookie has it now; the address may be shown
    history.replaceState(null, "", `/${given.size ? "?" + given : ""}${location.hash}`);
  }
  for (const name of FIELDS) if (name !== "sort") at("filters").elements[name].value = given.get(name) || "";
  state.offset = Number(given.get("offset")) || 0;
  listenToLook();
  listenToPlayer();
  at("question").addEventListener("submit", question);
  at("stop").addEventListener("click", () => told(stopAsking()));
  for (const kind of ["dragover", "dragleave", "drop"]) at("drop").addEventListener(kind, dropped);
  addEventListener("keydown", pressed);
  addEventListener("hashchange", () => told(route()));
  state.about = await get("runs");
  at("judge").value = localStorage.getItem("vrshq-judge") || state.about.judge;
  at("judge").addEventListener("input", () => {
    localStorage.setItem("vrshq-judge", at("judge").value.trim());
    if (state.film) showJudgements(state.film.info.judgements);
  });
  await route();
}

told(begin());
