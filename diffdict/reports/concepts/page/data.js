// What the page was given: figures as JSON; pictures and details as base64, read when seen.

const page = JSON.parse(takeText("data-figures"));
const latents = page.latents;
const rowOf = new Map(latents.number.map((number, row) => [number, row]));
const pictureText = takeText("data-pictures");
const detailText = takeText("data-details");
const pictureStart = running(page.pictures.map(([, , data, mask]) => data + mask));
const detailStart = running(page.lengths);

function pictureSource(index) {
  // The address of a picture: its own bytes.
  const [, kind, length] = page.pictures[index];
  const start = pictureStart[index];
  return `data:${kind};base64,${pictureText.slice(start, start + length)}`;
}

function maskSource(index) {
  // The same of its mask, or null.
  const length = page.pictures[index][3];
  const end = pictureStart[index + 1];
  return length ? `data:image/png;base64,${pictureText.slice(end - length, end)}` : null;
}

async function readDetails(row) {
  // A latent's histogram and its top pictures with their maps, unpacked.
  const bytes = bytesOf(detailText.slice(detailStart[row], detailStart[row + 1]));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const bins = page.edges.length - 1;
  const [height, width] = page.grid;
  const size = height * width;
  const count = Math.round((buffer.byteLength - 8 * bins) / (8 + size));
  const start = 8 * (bins + count);
  const maxima = new Float32Array(buffer, 8 * bins, count);
  const places = new Uint32Array(buffer, 8 * bins + 4 * count, count);
  const top = Array.from(maxima, (maximum, i) => ({
    maximum,
    picture: places[i],
    map: new Uint8Array(buffer, start + i * size, size),
  }));
  return { histogram: new Float64Array(buffer, 0, bins), top };
}
