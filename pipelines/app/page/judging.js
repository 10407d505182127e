// Judging: a verdict is kept in this browser until the app has stored it

import { at, count, get, make, number, ofRun, say, send, state, tag } from "./common.js";

const WAITING = "vrshq-unsent", RETRY_MS = 2000;
const unsent = () => JSON.parse(localStorage.getItem(WAITING) || "[]");
const keep = (waiting) => localStorage.setItem(WAITING, JSON.stringify(waiting));
const judgeName = () => at("judge").value.trim();

export function showJudgements(judgements) {
  const own = judgements.find((one) => one.judge === judgeName());
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.setAttribute("aria-pressed", own?.verdict === button.dataset.verdict);
  }
  if (own && !at("comment").value) at("comment").value = own.comment;
  const words = (one) => `${one.judge}, ${one.at.slice(0, 16).replace("T", " ")}${one.comment ? ": " + one.comment : ""}`;
  at("judgements").replaceChildren(...judgements.map((one) => make("li", {}, tag(one.verdict), words(one))));
}

export async function judge(verdict) {
  const info = state.film?.info;
  if (!info) return;
  if (!judgeName()) {
    say("Give the judge's name first.");
    at("judge").focus();
    return;
  }
  // the number makes a second try harmless
  const bytes = [...crypto.getRandomValues(new Uint8Array(16))];
  const part = bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const ids = { video: info.video_id, instruction: info.instruction_id };
  const body = { part, ...ids, judge: judgeName(), verdict, comment: at("comment").value };
  keep([...unsent(), { run: state.run, uri: state.facts.uri, body }]);
  await deliver();
  if (at("move-on").checked && at("next").hasAttribute("href")) location.hash = at("next").getAttribute("href");
}

export async function deliver() {
  for (const { run, body } of unsent().filter((waiting) => waiting.uri === state.facts?.uri)) {
    const done = () => keep(unsent().filter((waiting) => waiting.body.part !== body.part));
    try {
      const now = await send("POST", `runs/${encodeURIComponent(run)}/reviews`, body);
      done();
      say("");
      state.facts.judged = now.judged;
      const info = state.film?.info;
      if (info && info.video_id === body.video && info.instruction_id === body.instruction) {
        info.judgements = now.judgements;
        showJudgements(now.judgements);
      }
    } catch (error) {
      const refused = [400, 404, 422].includes(error.status);
      if (refused) done();
      else setTimeout(deliver, RETRY_MS);
      const why = error.status ? `: ${error.message}` : " yet, because the app does not answer";
      say(`The verdict is not stored${why}${refused ? "" : "; it is tried again"}.`);
      return;
    }
  }
}

export async function judges() {
  state.facts = await get(ofRun(""));
  const outcomes = Object.entries(state.facts.judged).map(([name, found]) => `${count(found)} ${name}`);
  const all = `of ${count(state.facts.instructions)} instructions`;
  at("judged").textContent = outcomes.length ? `Judged: ${outcomes.join(", ")}, ${all}.` : "Nobody has judged this run.";
  const pairs = await get(ofRun("/agreement"));
  at("pairs").replaceChildren(...pairs.map((one) => {
    const kappa = one.kappa === null ? "not defined" : number(one.kappa);
    const cells = [`${one.first} and ${one.second}`, one.both, `${number(one.percent, 0)} %`, kappa];
    return make("tr", {}, ...cells.map((text) => make("td", { textContent: text })));
  }));
  at("pairs").closest("table").hidden = !pairs.length;
}
