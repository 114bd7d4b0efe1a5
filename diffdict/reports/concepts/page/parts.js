"use strict";
// What every page is made with: pieces of data, elements, figures as they are shown.

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
