// The first view: what the dictionary is, and each class with the latent that was chosen for it.

const SCORES = [
  ["iou_test", "IoU", "Intersection over union on the test pictures"],
  ["iou_train", "on train", "The same on the training pictures, on which the latent was chosen"],
  ["iwm", "IwM", "Share of the class that the latent covers, on test"],
  ["precision", "precision", "Share of the latent's area that is the class, on test"],
  ["random", "random", "IoU on test of the best of as many random directions"],
  ["channel", "channel", "IoU on test of the best raw channel of the features"],
];

const KNOWN = SCORES.filter(
  ([key]) => key.startsWith("iou") || page.classes.some((each) => each[key] !== null),
);
const STRIP = "The test pictures in which the latent is strongest";
const STRIP_LENGTH = 4;
const GALLERY = 60;

function drawClasses() {
  // Facts, notes and the table.
  document.getElementById("title").textContent = page.title;
  const facts = page.facts.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value)),
  );
  document.getElementById("facts").append(...facts);
  document.getElementById("notes").textContent = notes().join(" ");
  if (page.switched) return drawEffects();
  if (!page.classes.length) return drawGallery();
  const head = element(
    "tr",
    {},
    ...["class", "latent"].map((text) => element("th", { scope: "col" }, text)),
  );
  head.append(
    element("th", { scope: "col", className: "strip", title: STRIP }, "where it is active"),
    ...KNOWN.map(([key, label, told]) =>
      element("th", { scope: "col", title: told, className: `figure ${key}` }, label),
    ),
  );
  const rows = page.classes.map(classRow);
  const mean = element(
    "tr",
    { className: "mean" },
    element("th", { scope: "row" }, "mean"),
    element("td"),
    element("td", { className: "strip" }),
  );
  mean.append(...KNOWN.map(([key, label]) => scoreCell(key, label, page.mean)));
  const table = element(
    "table",
    {},
    element("thead", {}, head),
    element("tbody", {}, ...rows, mean),
  );
  document.getElementById("class-table").append(table);
  return drawGallery();
}

function drawGallery() {
  // The latents that are strongest where they are active.
  const place = document.getElementById("class-table");
  if (page.classes.length) place.append(element("h3", {}, "Strong latents"));
  const rows = latents.number.map((_, row) => row).filter((row) => latents.density[row]);
  rows.sort((one, other) => compare(latents.mean[one], latents.mean[other], -1));
  const cards = rows.slice(0, GALLERY).map((row) => {
    const strip = element("span", { className: "strip" });
    const number = latents.number[row];
    const name = element("b", { className: "given", "data-number": number });
    const told = `active ${percent(latents.density[row])}, mean ${short(latents.mean[row])}`;
    const card = element("a", { href: `#latent-${number}` }, strip, String(number), name, told);
    whenSeen(card, () => drawStrip(strip, row));
    return card;
  });
  place.append(element("div", { id: "gallery" }, ...cards));
}

function notes() {
  // What the figures leave out, in sentences.
  const said = [];
  const absent = page.classes.filter((each) => each.absent).length;
  if (!("DecompressionStream" in window))
    said.push("This browser is too old to unpack the pictures: one of 2023 or later can.");
  if (page.switched)
    said.push(
      "Each latent was switched off and on in the vector that a network draws from; " +
        "both samples of a pair come from one noise.",
    );
  else if (!page.classes.length)
    said.push("The pictures have no masks, so latents were compared with no class.");
  if (absent && !page.switched)
    said.push(
      `${absent} of ${page.classes.length} classes are absent from the test pictures ` +
        "and left out of the mean.",
    );
  if (page.top < page.topWanted)
    said.push(
      `To keep the page small each latent shows ${page.top} of ${page.topWanted} top pictures.`,
    );
  if (page.bare)
    said.push(
      `To keep the page small ${page.bare.toLocaleString("en")} latents ` +
        "that match no class well show no pictures.",
    );
  return said;
}

function classRow(each) {
  // A class's figures; the whole row leads to its latent.
  const name = element("th", { scope: "row" }, swatch(each.colour), element("span", {}, each.name));
  if (each.absent) name.append(element("small", {}, "absent from test"));
  const strip = element("td", { className: "strip" });
  const given = { className: each.absent ? "absent" : "" };
  const row = element("tr", given, name, latentCell(each), strip);
  if (each.latent !== null) whenSeen(row, () => drawStrip(strip, rowOf.get(each.latent)));
  row.append(...KNOWN.map(([key, label]) => scoreCell(key, label, each)));
  if (each.latent !== null) {
    row.addEventListener("click", (event) => {
      if (!event.target.closest("a")) location.hash = `#latent-${each.latent}`;
    });
  }
  return row;
}

function latentCell(each) {
  // The link to the latent, with its name where it has one.
  if (each.latent === null) return element("td", {}, "–");
  const link = element("a", { href: `#latent-${each.latent}` }, String(each.latent));
  const name = element("b", { className: "given", "data-number": each.latent });
  return element("td", { "data-label": "latent" }, link, name);
}

async function drawStrip(place, row) {
  // A latent's first pictures, small, under heat.
  const { top } = await readDetails(row);
  const layers = top.slice(0, STRIP_LENGTH).map((each) => {
    const made = pictureLayers(row, each.picture);
    made.draw(each.map, each.maximum / top[0].maximum);
    return made.layers;
  });
  place.append(...layers);
}

function scoreCell(key, label, figures) {
  // One figure; the first has a bar, with a mark where random directions come to.
  const cell = element(
    "td",
    { className: `figure ${key}`, "data-label": label },
    element("span", {}, decimal(figures[key])),
  );
  if (key === "iou_test" && figures.iou_test !== null) {
    const bar = element("span", { className: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", figures.iou_test);
    if (figures.random !== null) bar.style.setProperty("--mark", figures.random);
    cell.prepend(bar);
  }
  return cell;
}

function showNames() {
  // Names wherever they appear, after one has changed.
  for (const place of document.querySelectorAll("b.given")) {
    place.textContent = names.get(Number(place.dataset.number)) ?? "";
  }
  document.getElementById("named").textContent = names.size ? `${names.size} named` : "";
  drawRows();
}
