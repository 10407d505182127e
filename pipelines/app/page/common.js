// What all parts of the page share: its state, requests, and small pieces. Names and texts are only ever set as text.

export const FIELDS = ["status", "text", "video", "least", "most", "outcome", "sort", "layout"];
export const SIGNALS = {
  flicker: "most flicker first", longest_gap: "longest gap first", area_jump: "largest jump of area first",
  score_dips: "most score dips first", lowest_score: "least trusted first (lowest object score)", border_share: "most at the border first",
};
export const SORTS = {
  "": "run's order", presence: "least presence first", empty: "emptiest first", objects: "most objects first",
  score: "worst score first", ...SIGNALS,
};
export const at = (id) => document.getElementById(id);
export const state = { about: null, run: null, facts: null, view: "", offset: 0, total: 0, film: null, playing: 0 };

export function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function say(text) {
  at("message").textContent = text;
  at("message").hidden = !text;
}

export const query = () => Object.fromEntries(FIELDS.map((name) => [name, at("filters").elements[name].value]));
export const given = (value) => value !== "" && value !== null && value !== undefined;
export const tag = (name) => make("b", { className: `tag ${name}`, textContent: name });
export const number = (value, digits = 2) => (given(value) ? Number(value).toFixed(digits) : "");
export const count = (value) => value.toLocaleString("en");

// Where things are

export const prefix = () => (state.run === state.about.main ? "#" : `#asked/${encodeURIComponent(state.run)}`);

export function link(row, frame) {
  const parts = [row.video_id, row.instruction_id].map(encodeURIComponent);
  return [prefix(), ...parts, ...(frame === undefined ? [] : [frame])].join("/");
}

export const ofRun = (path) => `runs/${encodeURIComponent(state.run)}${path}`;
export const ids = (row) => ({ id_video: row.video_id, id_instruction: row.instruction_id });

export function address(path, parameters = {}) {
  const wanted = Object.entries(parameters).filter(([, value]) => given(value));
  return `/api/${path}${wanted.length ? "?" + new URLSearchParams(wanted) : ""}`;
}

// Requests

export async function ask(where, options) {
  const response = await fetch(where, options);
  if (response.ok) return response;
  let reason = await response.text();
  try {
    reason = JSON.parse(reason).error || `a value is not allowed: ${reason.slice(0, 300)}`;
  } catch {
    // no JSON: the body is the reason
  }
  throw Object.assign(new Error(reason), { status: response.status });
}

export async function get(path, parameters) {
  return (await ask(address(path, parameters))).json();
}

export async function send(method, path, content) {
  const headers = { "Content-Type": "application/json" };
  return (await ask(address(path), { method, headers, body: JSON.stringify(content) })).json();
}

export async function frameImage(row, frame, size) {
  const response = await ask(address(ofRun("/frame"), { ...ids(row), number: frame, size }));
  return createImageBitmap(await response.blob());
}
