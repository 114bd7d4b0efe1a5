// One latent: its name, its figures, its histogram, its top pictures under heat.

const shown = { row: null, turn: 0, masks: [] };

function shownNumber() {
  // The number of the latent in view, or null.
  return shown.row === null ? null : latents.number[shown.row];
}

async function showLatent(row) {
  // Puts a latent into view; what is still being unpacked for an earlier one is dropped.
  const turn = ++shown.turn;
  shown.row = row;
  shown.masks = [];
  document.getElementById("latent").replaceChildren(...latentHead(row));
  document.getElementById("pictures").replaceChildren();
  const details = await readDetails(row);
  if (turn !== shown.turn) return;
  const head = document.getElementById("latent");
  if (page.switched) head.append(samplePairs("Off and on", page.switched.pairs[row]));
  else head.append(drawHistogram(details.histogram));
  const figures = details.top.map((top) => pictureFigure(row, top, details.top[0].maximum));
  const none = element(
    "p",
    { className: "quiet" },
    page.bare && latents.density[row]
      ? "Its pictures were left out to keep the page small."
      : "It has no pictures.",
  );
  document.getElementById("pictures").append(...(figures.length ? figures : [none]));
}

function latentHead(row) {
  // Title, neighbours in the list, name and figures.
  const number = latents.number[row];
  const best = page.classes[latents.bestClass[row]];
  const name = element("input", {
    id: "name",
    value: names.get(number) ?? "",
    placeholder: "Name it",
    maxLength: 80,
    autocomplete: "off",
    "aria-label": `Name of latent ${number}`,
  });
  name.addEventListener("change", () => {
    setName(number, name.value);
    keepNames();
    showNames();
  });
  name.addEventListener("keydown", (event) => {
    if (event.key === "Enter") name.blur();
  });
  const chosen = page.classes.filter((each) => each.latent === number).map((each) => each.name);
  const known = [
    ["best class", best ? [swatch(best.colour), best.name] : ["–"]],
    ["IoU on test", [decimal(latents.iouTest[row])]],
    ["IoU on train", [decimal(latents.iouTrain[row])]],
    ["density", [percent(latents.density[row])]],
    ["mean activation", [short(latents.mean[row])]],
    ...(chosen.length ? [["best latent of", [chosen.join(", ")]]] : []),
  ];
  const figures = page.switched ? effectFigures(row) : known;
  const facts = figures.map(([term, said]) =>
    element("div", {}, element("dt", {}, term), element("dd", {}, ...said)),
  );
  return [
    element(
      "div",
      { className: "tools" },
      element("h2", { tabIndex: -1 }, `Latent ${number}`),
      name,
      stepButton("previous", -1),
      stepButton("next", 1),
    ),
    element("dl", {}, ...facts),
  ];
}

function stepButton(label, step) {
  // Leads to the latent before or after this one in the list as it is sorted now.
  const place = list.rows.indexOf(shown.row) + step;
  const possible = list.rows.includes(shown.row) && place >= 0 && place < list.rows.length;
  const go = () => {
    setCursor(place);
    location.replace(`#latent-${latents.number[list.rows[place]]}`);
  };
  return element("button", { type: "button", disabled: !possible, onclick: go }, label);
}

function pictureFigure(row, top, strongest) {
  // A picture with its layers; drawn when it comes into sight.
  const [name] = page.pictures[top.picture];
  const { layers, mask, draw } = pictureLayers(row, top.picture);
  const made = element(
    "figure",
    {},
    layers,
    element(
      "figcaption",
      {},
      element("span", { title: name }, name),
      element("span", {}, `max ${short(top.maximum)}`),
    ),
  );
  const redraw = () => redrawMask(mask, top.picture, row);
  whenSeen(made, () => {
    draw(top.map, strongest > 0 ? top.maximum / strongest : 0);
    shown.masks.push(redraw);
    redraw();
  });
  return made;
}

function pictureLayers(row, picture) {
  // A picture under a mask and heat, all still empty, and what draws picture and heat.
  const [name] = page.pictures[picture];
  const heat = element("canvas", { className: "heat", width: 1, height: 1 });
  const mask = element("canvas", { className: "mask", width: 1, height: 1 });
  const image = element("img", { alt: `${name}, where latent ${latents.number[row]} is active` });
  const layers = element("div", { className: "layers" }, image, mask, heat);
  const draw = (map, strength) => {
    image.src = pictureSource(picture);
    drawHeat(heat, map, strength);
  };
  return { layers, mask, draw };
}

async function redrawMask(canvas, picture, row) {
  // The mask as the menu wants it, unless it has changed its mind meanwhile.
  const menu = document.getElementById("mask");
  const choice = menu.value;
  const source = maskSource(picture);
  const best = latents.bestClass[row];
  canvas.hidden = choice === "none" || source === null || (choice === "class" && best === null);
  if (canvas.hidden) return;
  canvas.classList.toggle("outline", choice === "class");
  const labels = await readLabels(source);
  if (menu.value === choice) drawMask(canvas, labels, choice === "class" ? best : null);
}
