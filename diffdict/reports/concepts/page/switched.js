// Latents that were switched on in drawing: samples off and on, and what became of them.

const SIGNED = { signDisplay: "exceptZero", maximumFractionDigits: 2, minimumFractionDigits: 2 };
const EFFECTS = [
  {
    key: "rise",
    label: "Rise",
    told: "How far its own code rose in what was drawn, in deviations of real pictures",
    show: (row) => signed(latents.rise[row]),
  },
  {
    key: "rank",
    label: "Rank",
    told: "Of that rise among the changes of all latents; 1: none changed more",
    rising: true,
    show: (row) => latents.rank[row].toLocaleString("en"),
  },
  {
    key: "area",
    label: "Area",
    told: "Change of its class's share of the picture, where a labeller looked",
    show: (row) => points(latents.area[row]),
  },
];
const PAIRS_SHOWN = 4; // in the table

function signed(value) {
  // A change in two digits.
  return value === null ? "–" : value.toLocaleString("en", SIGNED);
}

function points(share) {
  // A change of a share, in percent of the picture.
  return share === null ? "–" : `${signed(100 * share)}%`;
}

function effectFigures(row) {
  // What is said of a switched latent above its pictures.
  const best = page.classes[latents.bestClass[row]];
  const rank = `${latents.rank[row].toLocaleString("en")} of ${page.switched.of.toLocaleString("en")}`;
  return [
    ["class", best ? [swatch(best.colour), best.name] : ["–"]],
    ["its code rose by", [`${signed(latents.rise[row])} deviations`]],
    ["along random directions", [signed(latents.riseNull[row])]],
    ["p by rank", [decimal(latents.p[row])]],
    ["rank among all changes", [rank]],
    ["area of its class", [points(latents.area[row])]],
    ["its size along random ones", [percent(latents.areaNull[row])]],
    ["pixels changed by", [short(latents.pixels[row])]],
    ["… along random ones", [short(latents.pixelsNull[row])]],
    ["rises beyond random", [latents.rises[row] ? "yes" : "no"]],
  ];
}

function samplePair([off, on]) {
  // Two samples of one noise, beside each other.
  const made = element("span", { className: "pair" });
  whenSeen(made, () => {
    const images = [
      [off, "off"],
      [on, "on"],
    ].map(([picture, state]) => element("img", { src: pictureSource(picture), alt: state }));
    made.append(...images);
  });
  return made;
}

function samplePairs(title, pairs) {
  // All noises of a latent, or of random directions.
  return element(
    "figure",
    { className: "pairs" },
    element("figcaption", {}, title),
    element("div", {}, ...pairs.map(samplePair)),
  );
}

function drawEffects() {
  // The first view: every latent with what became of it, the largest rise first.
  document.body.classList.add("switched"); // its list has wider figures
  const rows = latents.number.map((_, row) => row);
  rows.sort((one, other) => compare(latents.rise[one], latents.rise[other], -1));
  const head = ["latent", "off and on"].map((text) => element("th", { scope: "col" }, text));
  const figures = EFFECTS.map(({ label, told }) =>
    element("th", { scope: "col", title: told, className: "figure" }, label.toLowerCase()),
  );
  const table = element(
    "table",
    { className: "effects" },
    element("thead", {}, element("tr", {}, ...head, ...figures)),
    element("tbody", {}, ...rows.map(effectRow)),
  );
  const place = document.getElementById("class-table");
  place.append(table);
  if (page.switched.random.length)
    place.append(samplePairs("Random directions of equal length", page.switched.random));
}

function effectRow(row) {
  // A latent's name, its first samples and figures; the whole row leads to it.
  const number = latents.number[row];
  const link = element("a", { href: `#latent-${number}` }, String(number));
  const best = className(row);
  const name = element("b", { className: "given", "data-number": number });
  const pairs = page.switched.pairs[row].slice(0, PAIRS_SHOWN).map(samplePair);
  const made = element(
    "tr",
    {},
    element("th", { scope: "row" }, link, best ? ` ${best}` : "", name),
    element("td", { className: "pairs" }, ...pairs),
    ...EFFECTS.map(({ label, show }) =>
      element("td", { className: "figure", "data-label": label.toLowerCase() }, show(row)),
    ),
  );
  made.addEventListener("click", (event) => {
    if (!event.target.closest("a")) location.hash = `#latent-${number}`;
  });
  return made;
}
