// Masks: COCO's compressed run-length codes, column by column, and their picture

export const COLOURS = [
  [255, 45, 170], [0, 158, 255], [240, 228, 66], [0, 190, 120], [213, 94, 0], [150, 110, 255], [120, 235, 235], [190, 190, 190],
];

// Five bits a character, the sixth says that more follow; from the fourth run on, the difference to the run before the last.
export function runsOf(text) {
  const runs = [];
  for (let place = 0; place < text.length;) {
    let value = 0, shift = 0, code;
    do {
      code = text.charCodeAt(place++) - 48;
      value |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    if (code & 16) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

// Which object has each pixel, row by row: 0 none, else 1 + the place of its colour. A later object covers an earlier one.
function owners(masks, height, width) {
  const owner = new Uint8Array(height * width);
  for (const mask of masks) {
    let x = 0, y = 0;
    const own = 1 + (mask.object % COLOURS.length);
    runsOf(mask.rle).forEach((length, place) => {
      for (let left = length; left > 0 && x < width;) {
        const here = Math.min(left, height - y);
        if (place & 1) for (let row = y; row < y + here; row++) owner[row * width + x] = own;
        left -= here;
        y += here;
        if (y === height) { y = 0; x++; }
      }
    });
  }
  return owner;
}

// A canvas of the masks' size: each object in its colour, translucent inside and solid at its edge.
export function painted(masks, opacity, hidden = new Set()) {
  const { height, width } = masks[0];
  const owner = owners(masks.filter((mask) => !hidden.has(mask.object)), height, width);
  const image = new ImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  const shades = COLOURS.map(([red, green, blue]) => (blue << 16) | (green << 8) | red);
  const inside = Math.round(255 * opacity) << 24, edge = 255 << 24;
  for (let y = 0, place = 0; y < height; y++) {
    for (let x = 0; x < width; x++, place++) {
      const own = owner[place];
      if (!own) continue;
      const inner = x > 0 && y > 0 && x < width - 1 && y < height - 1 &&
        owner[place - 1] === own && owner[place + 1] === own && owner[place - width] === own && owner[place + width] === own;
      pixels[place] = shades[own - 1] | (inner ? inside : edge);
    }
  }
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
