// Pictures of one concept off and on, as sliders and menu say.

const FLICKER = 600; // milliseconds that a picture stands
const shown = { place: null, on: true };

function chosenAmount() {
  // The place among the amounts.
  return Number(document.getElementById("amount").value);
}

function chosenWindow() {
  // The place among the windows.
  return Number(document.getElementById("window").value);
}

function drawStrip() {
  // The concept's pictures at the chosen amount in the chosen window.
  const concept = page.concepts[shown.place];
  const amount = page.amounts[chosenAmount()];
  document.getElementById("amount-said").textContent = amount === undefined ? "–" : factor(amount);
  document.getElementById("window-said").textContent = page.windows[chosenWindow()] ?? "–";
  const figures = concept.seeds.map((seed) => {
    const on = seed.on[chosenWindow()][chosenAmount()];
    return element("figure", {}, shownPair(seed.off, on, seed.name), caption(seed.name));
  });
  const none = element("p", { className: "quiet" }, "Too few pictures show it.");
  document.getElementById("strip").replaceChildren(...(figures.length ? figures : [none]));
}

function caption(text) {
  // What stands under a picture.
  return element("figcaption", {}, text);
}

function shownPair(off, on, name) {
  // One picture off and on, as the menu wants them.
  const way = document.getElementById("show").value;
  const part = way === "labels" ? 1 : 0;
  const pictures = [
    [off[part], "off"],
    [on[part], "on"],
  ].map(([index, word]) =>
    element("img", { src: pictureSource(index), alt: `${name} ${word}`, className: word }),
  );
  return element("div", { className: `shown ${way}` }, ...pictures);
}

function flicker() {
  // Off and on in turn; they stand still for those who asked for no motion.
  if (document.getElementById("show").value !== "flicker") return;
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  shown.on = !shown.on;
  document.body.classList.toggle("flick", shown.on);
}
