// The player: one instruction's frames with its masks

import {
  SIGNALS, at, count, frameImage, get, given, ids, link, make, number, ofRun, prefix, query, say, state,
} from "./common.js";
import { curves } from "./curves.js";
import { showJudgements } from "./judging.js";
import { COLOURS, painted } from "./masks.js";

const CHUNK = 32, KEPT_IMAGES = 48, AHEAD = 3, PLAYED_PER_SECOND = 25, SIZE = 960;

export async function openFilm(video, instruction, frame) {
  const { layout, ...wanted } = query();
  const info = await get(ofRun("/instruction"), { ...wanted, id_video: video, id_instruction: instruction });
  const film = { info, masks: new Map(), images: new Map(), hidden: new Set(), frame: 0, now: null };
  state.film = film;
  showFacts(info);
  showObjects(film);
  at("comment").value = "";
  showJudgements(info.judgements);
  at("frame").max = Math.max(0, (info.num_frames || 1) - 1);
  at("of").textContent = info.num_frames ? `of ${info.num_frames}` : "";
  note("");
  const stage = at("stage");
  stage.getContext("2d").clearRect(0, 0, stage.width, stage.height);
  delete stage.dataset.frame;
  if (info.num_frames) {
    await show(frame ?? info.keyframe_index ?? info.labelled.first);
  } else {
    note(info.error_message || "There is no frame to show.");
    curves(film);
  }
}

function showFacts(info) {
  at("text").textContent = info.text || "(no text)";
  at("answer").textContent = info.answer || "";
  at("answer").hidden = !info.answer;
  const asked = info.labelled, span = asked.count !== (info.num_frames || 0);
  const facts = {
    video: info.video_id, status: info.status, presence: number(info.presence), objects: info.num_objects,
    keyframe: info.keyframe_index, frames: info.num_frames,
    labelled: span && asked.count ? `${asked.first} to ${asked.last}, every ${asked.step}` : "",
    size: info.width ? `${info.width} x ${info.height}` : "", "J&F": number(info.score, 1),
    ...Object.fromEntries(Object.keys(SIGNALS).map((name) => [name.replace("_", " "), number(info[name], 3)])),
    notes: info.notes, error: info.error_type ? `${info.error_type}: ${info.error_message}` : "",
  };
  const shown = Object.entries(facts).filter(([, value]) => given(value));
  const pairs = shown.map(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]);
  at("facts").replaceChildren(...pairs.flat());
  at("place").textContent = info.place === null ? "" : `${count(info.place + 1)} of ${count(info.total)}`;
  for (const name of ["previous", "next"]) {
    if (info.neighbours[name]) at(name).href = link(info.neighbours[name]);
    else at(name).removeAttribute("href");
  }
  at("to-list").href = prefix();
}

function showObjects(film) {
  const several = film.info.objects.length > 1 ? film.info.objects : [];
  at("objects").replaceChildren(...several.map(({ object }) => {
    const box = make("input", { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      film.hidden[box.checked ? "delete" : "add"](object);
      draw();
    });
    const colour = make("i");
    colour.style.background = `rgb(${COLOURS[object % COLOURS.length]})`;
    return make("label", {}, box, colour, String(object));
  }));
}

function note(text) {
  at("stage-note").textContent = text;
  at("stage-note").hidden = !text;
}

function image(film, frame) {
  if (!film.images.has(frame)) {
    film.images.set(frame, frameImage(film.info, frame, SIZE));
    if (film.images.size > KEPT_IMAGES) film.images.delete(film.images.keys().next().value);
    film.images.get(frame).catch(() => film.images.delete(frame));
  }
  return film.images.get(frame);
}

async function masksOf(film, frame) {
  const first = Math.floor(frame / CHUNK) * CHUNK;
  if (!film.masks.has(first)) {
    film.masks.set(first, get(ofRun("/masks"), { ...ids(film.info), first, last: first + CHUNK - 1 }));
    if (film.masks.size > KEPT_IMAGES) film.masks.delete(film.masks.keys().next().value);
    film.masks.get(first).catch(() => film.masks.delete(first));
  }
  return (await film.masks.get(first)).filter((mask) => mask.frame === frame);
}

export async function show(wanted) {
  const film = state.film, frames = film.info.num_frames, by = film.info.labelled.step;
  const frame = Math.max(0, Math.min(frames - 1, Math.round(Number(wanted)) || 0));
  film.frame = frame;
  at("frame").value = frame;
  const masks = masksOf(film, frame).catch((error) => {
    say(error.message);
    return [];
  });
  const picture = image(film, frame).catch((error) => ({ missing: error.message }));
  const now = { masks: await masks, picture: await picture };
  if (state.film !== film || film.frame !== frame) return; // another frame was asked for meanwhile
  film.now = now;
  for (let ahead = frame + by; ahead <= frame + AHEAD * by && ahead < frames; ahead += by) image(film, ahead).catch(() => {});
  draw();
  curves(film);
  history.replaceState(null, "", `${location.pathname}${location.search}${link(film.info, frame)}`);
}

export function draw() {
  const { info, now, hidden, frame } = state.film, stage = at("stage");
  if (!now) return;
  const missing = now.picture.missing, context = stage.getContext("2d");
  stage.width = missing ? info.width : now.picture.width;
  stage.height = missing ? info.height : now.picture.height;
  if (missing) {
    context.fillStyle = "#3a3d44";
    context.fillRect(0, 0, stage.width, stage.height);
  } else {
    context.drawImage(now.picture, 0, 0);
  }
  if (at("shown").checked && now.masks.length) {
    context.drawImage(painted(now.masks, Number(at("opacity").value), hidden), 0, 0, stage.width, stage.height);
  }
  stage.dataset.frame = frame;
  note(missing || "");
}

export function go(place) {
  const { first, last } = state.film.info.labelled;
  stop();
  show(place === "first" ? first : place === "last" ? last : place);
}

export function step(frames) {
  go(state.film.frame + frames * state.film.info.labelled.step);
}

export function stop() {
  state.playing++;
  state.plays = false;
  at("play").textContent = "▶ play";
}

export async function play() {
  if (state.plays) {
    stop();
    return;
  }
  const mine = ++state.playing, film = state.film, { first, last, step: by } = film.info.labelled;
  state.plays = true;
  at("play").textContent = "❚❚ pause";
  if (film.frame >= last) await show(first);
  while (mine === state.playing && state.film === film && film.frame < last) {
    const begin = performance.now();
    await show(film.frame + by);
    const left = 1000 / PLAYED_PER_SECOND - (performance.now() - begin);
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, left)));
  }
  if (mine === state.playing) stop();
}
