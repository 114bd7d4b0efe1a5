// The list of concepts: searched, sorted; each with its effect and those of its controls.

const COLUMNS = [
  { key: "name", label: "Concept", told: "A class of the labeller", rising: true },
  { key: "latents", label: "Kept", told: "Share of its pixels left when its latents change" },
  { key: "direction", label: "random", told: "… when a random direction as long is added" },
  { key: "others", label: "others", told: "… when as many latents of like density change" },
  { key: "outside", label: "outside", told: "Share of labels further away that its latents change" },
];
const list = { sort: "latents", rising: true, rows: [] };

function valueOf(concept, key) {
  // What concepts are compared by.
  if (key === "name") return concept.name.toLowerCase();
  if (key === "outside") return effectOf(concept, "latents")?.outside ?? null;
  return effectOf(concept, key)?.kept ?? null;
}

function says(concept, word) {
  // Whether its name, a latent's number or a latent's name is like this word.
  if (concept.name.toLowerCase().includes(word)) return true;
  return concept.latents.some(
    ({ number }) =>
      String(number) === word.replace(/^#/, "") ||
      (names.get(number) ?? "").toLowerCase().includes(word),
  );
}

function drawConcepts() {
  // The table as it is searched and sorted now.
  const words = document.getElementById("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const sign = list.rising ? 1 : -1;
  list.rows = page.concepts.filter((each) => words.every((word) => says(each, word)));
  list.rows.sort((one, other) =>
    compare(valueOf(one, list.sort), valueOf(other, list.sort), sign),
  );
  const head = element("tr", {}, ...COLUMNS.map(columnHead));
  const table = element(
    "table",
    {},
    element("thead", {}, head),
    element("tbody", {}, ...list.rows.map(conceptRow)),
  );
  document.getElementById("concepts").replaceChildren(table);
  const all = page.concepts.length;
  document.getElementById("found").textContent =
    list.rows.length === all ? `${all} concepts` : `${list.rows.length} of ${all}`;
}

function columnHead(column) {
  // A heading that sorts.
  const sort = () => {
    list.rising = list.sort === column.key ? !list.rising : true;
    list.sort = column.key;
    drawConcepts();
  };
  const mine = list.sort === column.key;
  const order = mine ? (list.rising ? "ascending" : "descending") : "none";
  const button = element(
    "button",
    { type: "button", title: column.told, onclick: sort, "data-key": column.key },
    column.label,
  );
  return element("th", { "aria-sort": order }, button);
}

function conceptRow(concept) {
  // A concept's line: a link to it.
  const place = page.concepts.indexOf(concept);
  const link = element("a", { href: `#concept-${place}` }, swatch(concept.colour), concept.name);
  const cells = COLUMNS.slice(1).map(({ key }) =>
    element("td", {}, decimal(valueOf(concept, key))),
  );
  const row = element("tr", {}, element("td", {}, link), ...cells);
  row.classList.toggle("open", place === shown.place);
  row.addEventListener("click", () => {
    location.hash = `#concept-${place}`;
  });
  return row;
}

function drawEffects(concept) {
  // Its own effect beside what the controls do, as bars of what is left.
  const titles = ["", "left of its pixels", "", "outside", "rms", "became"];
  const rows = concept.effects.map((each) => {
    const bar = element("meter", { min: 0, max: 1, value: each.kept ?? 0 });
    bar.hidden = each.kept === null;
    const amount = each.amount === null ? "" : ` × ${factor(each.amount)}`;
    const own = each.edit === "latents" && each.p !== null ? `, p ${decimal(each.p)}` : "";
    const error = each.error === null ? "" : ` ± ${decimal(each.error)}`;
    return element(
      "tr",
      { "data-edit": each.edit },
      element("th", { scope: "row" }, (EDITS[each.edit] ?? each.edit) + amount),
      element("td", {}, bar),
      element("td", {}, decimal(each.kept) + error + own),
      element("td", {}, decimal(each.outside, 3)),
      element("td", {}, decimal(each.rms, 3)),
      element("td", { className: "quiet" }, each.became),
    );
  });
  const head = element("tr", {}, ...titles.map((title) => element("th", {}, title)));
  const table = element(
    "table",
    {},
    element("thead", {}, head),
    element("tbody", {}, ...rows),
  );
  document.getElementById("effects").replaceChildren(table);
}
