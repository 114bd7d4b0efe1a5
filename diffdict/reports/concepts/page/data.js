"use strict";
// What the page was given: figures as JSON; pictures and details as base64, read when seen.

const page = JSON.parse(takeText("data-figures"));
const latents = page.latents;
const rowOf = new Map(latents.number.map((number, row) => [number, row]));
const pictureText = takeText("data-pictures");
const detailText = takeText("data-details");
const pictureStart = running(page.pictures.map(([, , data, mask]) => data + mask));
const detailStart = running(page.lengths);

function takeText(id) {
  // The text of a data element, which is then let go.
  const element = document.getElementById(id);
  const text = element.textContent;
  element.remove();
  return text;
}

function running(lengths) {
  // Where each piece starts, and where the last one ends.
  const starts = [0];
  for (const length of lengths) starts.push(starts.at(-1) + length);
  return starts;
}

function bytesOf(text) {
  // Base64 as bytes.
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

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

function element(tag, given = {}, ...children) {
  // A new element; text from the data only ever enters as text.
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name in made && name !== "role") made[name] = value;
    else if (value !== null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function decimal(value, digits = 2) {
  // A figure as it is shown; a dash where there is none.
  return value === null ? "–" : value.toFixed(digits);
}

function short(value) {
  // A figure of any size in three digits.
  if (value === null) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 0.001 || size >= 100000) return value.toExponential(1);
  return size >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

function percent(value) {
  // A share in percent.
  if (value === null) return "–";
  if (value > 0 && value < 0.0001) return "<0.01%";
  return `${(100 * value).toFixed(value < 0.01 ? 2 : 1)}%`;
}

function swatch(colour) {
  // A patch of a class's colour.
  const made = element("span", { className: "swatch", "aria-hidden": "true" });
  made.style.backgroundColor = `rgb(${colour.join(" ")})`;
  return made;
}
