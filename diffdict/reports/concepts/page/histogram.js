// A latent's activations as bars.

function drawHistogram(counts) {
  // Bars between the page's edges up to the last that holds a token; heights are logarithmic.
  const used = counts.findLastIndex((count) => count > 0) + 1;
  if (!used) return element("p", { className: "quiet" }, "It was active in no token.");
  const most = Math.log1p(Math.max(...counts));
  const wide = 100 / used;
  const bars = Array.from(counts.slice(0, used), (count, i) => {
    const high = (100 * Math.log1p(count)) / most;
    const place = { x: i * wide + 0.1 * wide, y: 100 - high, width: 0.8 * wide, height: high };
    const range = `${short(page.edges[i])} to ${short(page.edges[i + 1])}`;
    const told = `${range}: ${count.toLocaleString("en")} tokens`;
    return drawn("rect", place, drawn("title", {}, told));
  });
  const ends = [0, used / 2, used].map((place) => short(page.edges[Math.round(place)]));
  const label = `Histogram of activations from ${ends[0]} to ${ends[2]}`;
  const given = {
    viewBox: "0 0 100 100",
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": label,
  };
  return element(
    "figure",
    { className: "histogram" },
    drawn("svg", given, ...bars),
    element("div", { className: "axis" }, ...ends.map((end) => element("span", {}, end))),
    element("figcaption", {}, "Tokens by activation, logarithmic"),
  );
}

function drawn(tag, given, ...children) {
  // A new SVG element.
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(given)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
