// Heat and masks over pictures, drawn when they come into sight.

const SIDE = 256; // about the pixels that a layer is drawn in; CSS brings it to the picture's size
const STOPS = [
  [40, 8, 80],
  [120, 20, 110],
  [190, 50, 70],
  [240, 110, 25],
  [252, 190, 40],
  [252, 252, 160],
];
const LADDER = ladder(STOPS);
const watcher = new IntersectionObserver(drawSeen, { rootMargin: "300px" });
const waiting = new WeakMap();

function ladder(stops) {
  // 256 colours between the stops, the weaker the more transparent.
  const colours = new Uint8ClampedArray(1024);
  for (let level = 0; level < 256; level++) {
    const place = (level / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    for (let c = 0; c < 3; c++) {
      colours[4 * level + c] = stops[low][c] + (place - low) * (stops[low + 1][c] - stops[low][c]);
    }
    colours[4 * level + 3] = 255 * Math.min(1, (level / 255) ** 0.6 * 1.1);
  }
  return colours;
}

function whenSeen(element, draw) {
  // Calls `draw` once, when the element comes near the window.
  waiting.set(element, draw);
  watcher.observe(element);
}

function drawSeen(entries) {
  // Draws what has just come near.
  for (const entry of entries.filter((each) => each.isIntersecting)) {
    watcher.unobserve(entry.target);
    waiting.get(entry.target)();
  }
}

function corners(from, to) {
  // For each of `to` places, the two of `from` around it and the weight of the second.
  return Array.from({ length: to }, (_, i) => {
    const place = Math.min(Math.max(((i + 0.5) * from) / to - 0.5, 0), from - 1);
    const low = Math.floor(place);
    return [low, Math.min(low + 1, from - 1), place - low];
  });
}

function drawHeat(canvas, map, strength) {
  // A native map enlarged bilinearly, then coloured; `strength` is what 255 is worth, up to 1.
  const [height, width] = page.grid;
  const times = Math.max(1, Math.round(SIDE / Math.max(height, width)));
  canvas.width = width * times;
  canvas.height = height * times;
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const columns = corners(width, canvas.width);
  let at = 0;
  for (const [above, below, down] of corners(height, canvas.height)) {
    for (const [left, right, over] of columns) {
      const upper = map[above * width + left] * (1 - over) + map[above * width + right] * over;
      const lower = map[below * width + left] * (1 - over) + map[below * width + right] * over;
      const level = Math.round((upper * (1 - down) + lower * down) * strength);
      for (let c = 0; c < 4; c++) image.data[at++] = LADDER[4 * level + c];
    }
  }
  context.putImageData(image, 0, 0);
}

function drawMask(canvas, labels, only) {
  // All classes in their colours, or the outline of one.
  const times = Math.max(1, Math.round(SIDE / Math.max(labels.height, labels.width)));
  canvas.width = labels.width * times;
  canvas.height = labels.height * times;
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const at = (x, y) => {
    const row = Math.floor(Math.min(Math.max(y, 0), canvas.height - 1) / times);
    const column = Math.floor(Math.min(Math.max(x, 0), canvas.width - 1) / times);
    return labels.data[row * labels.width + column];
  };
  const paint = only === null ? fill(at) : outline(at, only);
  for (let y = 0; y < canvas.height; y++) {
    for (let x = 0; x < canvas.width; x++) {
      image.data.set(paint(x, y), 4 * (y * canvas.width + x));
    }
  }
  context.putImageData(image, 0, 0);
}

function fill(at) {
  // A painter of every class; what is ignored stays clear.
  return (x, y) => {
    const seen = page.classes[at(x, y)];
    return seen ? [...seen.colour, 150] : [0, 0, 0, 0];
  };
}

function outline(at, only) {
  // A painter of one class's border: white within, dark without; the picture's edge is none.
  const inside = (x, y) => at(x, y) === only;
  const near = [
    [2, 0],
    [-2, 0],
    [0, 2],
    [0, -2],
    [1, 1],
    [-1, 1],
    [1, -1],
    [-1, -1],
  ];
  return (x, y) => {
    const here = inside(x, y);
    const border = near.some(([right, down]) => inside(x + right, y + down) !== here);
    if (!border) return [0, 0, 0, 0];
    return here ? [255, 255, 255, 255] : [0, 0, 0, 170];
  };
}

async function readLabels(source) {
  // A mask's classes: the grey levels of its PNG.
  const image = new Image();
  image.src = source;
  await image.decode();
  const canvas = element("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { width, height, data } = context.getImageData(0, 0, canvas.width, canvas.height);
  return { width, height, data: data.filter((_, i) => i % 4 === 0) };
}
