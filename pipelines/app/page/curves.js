// The curves of object score and area over the frames, with the keyframe, the sampled frames and the frame that is shown

import { at, given, number } from "./common.js";
import { COLOURS } from "./masks.js";

const SIDE = 12; // pixels left and right of the curves

// The least and the largest of the values, of which there may be more than a function takes as arguments.
function extremes(values) {
  return values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [0, 0]);
}

export function curves(film) {
  const { info, frame } = film, canvas = at("curves"), ratio = devicePixelRatio || 1;
  const wide = canvas.clientWidth, high = canvas.clientHeight, half = high / 2;
  const { first, last } = info.labelled;
  canvas.width = wide * ratio;
  canvas.height = high * ratio;
  const context = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const across = (place) => SIDE + ((place - first) / Math.max(1, last - first)) * (wide - 2 * SIDE);

  function upright(place, name, from, thick) {
    context.strokeStyle = colour(name);
    context.lineWidth = thick;
    context.beginPath();
    context.moveTo(across(place), from);
    context.lineTo(across(place), high);
    context.stroke();
  }

  function plot(name, title, top, suffix, scale) {
    const values = info.objects.flatMap((one) => one[name]).filter(given);
    const [least, found] = extremes(values), most = found === least ? least + 1 : found;
    const up = (value) => top + 22 + ((most - value) / (most - least)) * (half - 34);
    context.strokeStyle = colour("--line");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(SIDE, up(0));
    context.lineTo(wide - SIDE, up(0));
    context.stroke();
    for (const one of info.objects) {
      context.strokeStyle = `rgb(${COLOURS[one.object % COLOURS.length]})`;
      context.lineWidth = 1.6;
      context.beginPath();
      one.frames.forEach((place, index) => given(one[name][index]) && context.lineTo(across(place), up(one[name][index])));
      context.stroke();
    }
    const range = `${number(least * scale, 1)} to ${number(most * scale, 1)}${suffix}`;
    const words = values.length ? `${title}, ${range}` : `no ${title}`;
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = colour("--card");
    context.fillRect(SIDE - 2, top + 3, context.measureText(words).width + 6, 15);
    context.fillStyle = colour("--dim");
    context.fillText(words, SIDE, top + 15);
  }

  context.scale(ratio, ratio);
  for (const sampled of info.sampled_frames || []) upright(sampled, "--plot", high - 9, 2);
  if (given(info.keyframe_index)) upright(info.keyframe_index, "--key", 0, 3);
  upright(frame, "--ink", 0, 1);
  plot("scores", "object score", 0, "", 1);
  plot("areas", "area", half, " % of the frame", 100 / Math.max(1, (info.height || 1) * (info.width || 1)));
}

// The labelled frame below the pointer.
export function pointed(event, info) {
  const { first, last, step } = info.labelled, box = at("curves").getBoundingClientRect();
  const share = (event.clientX - box.left - SIDE) / (box.width - 2 * SIDE);
  return first + step * Math.round((Math.max(0, Math.min(1, share)) * (last - first)) / step);
}
