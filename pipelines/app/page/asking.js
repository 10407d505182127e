// Asking: a path or an upload, sentences, progress, and the answers

import { address, ask, at, get, make, number, say, send, state, tag } from "./common.js";

const LOOK_MS = 400;

export async function askView() {
  const { model, roots, most_upload: most, questions } = (state.about = await get("runs"));
  const limit = Math.floor(most / 2 ** 20);
  at("about-ask").textContent = `Model ${model}. Paths inside ${roots.join(", ")}; uploads of at most ${limit} MiB.`;
  const links = questions.map((name) => make("a", { href: `#asked/${encodeURIComponent(name)}`, textContent: name }));
  at("asked").replaceChildren(...links.map((one) => make("li", {}, one)));
  at("asked").parentElement.hidden = !questions.length;
  await follow(false);
}

export async function follow(opens) {
  const { question } = await get("question"), running = question?.state === "running";
  at("send").disabled = running;
  at("stop").hidden = !running;
  if (!question) return;
  const states = { running: question.doing, done: "done", failed: `failed: ${question.message}`, stopped: "stopped" };
  at("progress").textContent = `${question.texts.join(" / ")}: ${states[question.state]} (${number(question.seconds, 1)} s)`;
  const parts = (answer) => [question.run, answer.video_id, answer.instruction_id];
  const where = (answer) => `#asked/${parts(answer).map(encodeURIComponent).join("/")}`;
  at("answers").replaceChildren(...question.answers.map((one) => {
    const said = one.answer ? `; ${one.answer}` : "";
    const shown = `a mask on ${Math.round(100 * one.share)} % of the frames${said}`;
    const open = make("a", { href: where(one), textContent: one.text });
    return make("li", {}, tag(one.status), open, `: ${one.status === "error" ? one.error_message : shown}`);
  }));
  if (running) {
    setTimeout(() => state.view === "ask" && follow(true).catch((error) => say(error.message)), LOOK_MS);
  } else if (opens && question.state === "done") {
    await send("POST", `runs/${encodeURIComponent(question.run)}/refresh`, {});
    const best = ["ok", "empty"].map((status) => question.answers.find((one) => one.status === status)).find(Boolean);
    if (best) location.hash = where(best);
  }
}

export async function question(event) {
  event.preventDefault();
  const file = at("file").files[0];
  let video = at("video").value.trim();
  at("send").disabled = true;
  say("");
  try {
    if (!video && file) {
      at("progress").textContent = `sending ${file.name}`;
      const sent = await ask(address("uploads", { name: file.name }), { method: "PUT", body: file });
      video = (await sent.json()).video;
    }
    if (!video) throw new Error("Give a path, or choose a video.");
    await send("POST", "question", { video, texts: at("texts").value.split("\n").filter((text) => text.trim()) });
    await follow(true);
  } catch (error) {
    at("progress").textContent = "";
    at("send").disabled = false;
    say(error.message);
  }
}

export async function stopAsking() {
  await send("DELETE", "question", {});
  await follow(false);
}

export function dropped(event) {
  event.preventDefault();
  at("drop").classList.toggle("over", event.type === "dragover");
  if (event.type === "drop") at("file").files = event.dataTransfer.files;
}
