// The list of latents: searched, filtered, sorted; only the rows in sight are in the document.

const FIGURES = [
  {
    key: "iouTest",
    label: "IoU",
    told: "With that class, on the test pictures",
    show: (row) => decimal(latents.iouTest[row]),
  },
  {
    key: "density",
    label: "Density",
    told: "Share of tokens in which it is active",
    show: (row) => percent(latents.density[row]),
  },
  {
    key: "mean",
    label: "Mean",
    told: "Mean activation where it is active",
    show: (row) => short(latents.mean[row]),
  },
];
const SHOWN_FIGURES = page.switched ? EFFECTS : FIGURES;
const COLUMNS = [
  { key: "number", label: "Latent", told: "Number in the dictionary", rising: true },
  {
    key: "class",
    label: "Class",
    told: "Best class, chosen on the training pictures",
    rising: true,
  },
  ...SHOWN_FIGURES,
];
const SPARE = 8; // rows drawn beyond what is in sight
const list = { rows: [], cursor: 0, sort: "iouTest", rising: false, height: 36, frame: 0 };
if (!page.classes.length) list.sort = "mean";
if (page.switched) list.sort = "rise";

function startList() {
  // Fills the tools and draws for the first time.
  const filter = document.getElementById("filter");
  const choices = [
    ["all", "all latents"],
    ["named", "named"],
    ["best", "best of a class"],
    ["silent", "never active"],
  ];
  filter.append(...choices.map(([value, text]) => element("option", { value }, text)));
  filter.append(
    ...page.classes.map(({ name }, i) => element("option", { value: String(i) }, name)),
  );
  const box = rowsBox();
  document.getElementById("columns").append(...COLUMNS.map(columnButton));
  filter.addEventListener("change", () => choose());
  document.getElementById("search").addEventListener("input", () => choose());
  box.addEventListener("scroll", drawSoon, { passive: true });
  box.addEventListener("keydown", moveCursor);
  new ResizeObserver(measure).observe(box);
  choose();
}

function rowsBox() {
  // What scrolls.
  return document.getElementById("rows");
}

function columnButton(column) {
  // A column's heading, which sorts by it.
  const sort = () => {
    list.rising = list.sort === column.key ? !list.rising : Boolean(column.rising);
    list.sort = column.key;
    choose();
  };
  const given = { type: "button", title: column.told, onclick: sort, "data-key": column.key };
  return element("button", given, column.label);
}

function choose() {
  // Decides which latents are listed and in which order, and shows them from the first.
  const words = document.getElementById("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const allowed = filterOf(document.getElementById("filter").value);
  const rows = latents.number.map((_, row) => row);
  const value = valueOf(list.sort);
  const sign = list.rising ? 1 : -1;
  list.rows = rows.filter((row) => allowed(row) && words.every((word) => says(row, word)));
  list.rows.sort((one, other) => compare(value(one), value(other), sign));
  list.cursor = 0;
  rowsBox().scrollTop = 0;
  for (const button of document.getElementById("columns").children) {
    const order = list.rising ? "ascending" : "descending";
    const mine = button.dataset.key === list.sort;
    button.setAttribute("aria-label", `${button.title}, ${mine ? order : "not sorted"}`);
    button.dataset.order = mine ? order : "";
  }
  const all = latents.number.length.toLocaleString("en");
  const found = list.rows.length.toLocaleString("en");
  document.getElementById("found").textContent =
    found === all ? `${all} latents` : `${found} of ${all}`;
  drawRows();
}

function filterOf(choice) {
  // Whether a row belongs to what the menu says.
  const best = new Set(page.classes.map((each) => each.latent));
  const known = {
    all: () => true,
    named: (row) => names.has(latents.number[row]),
    best: (row) => best.has(latents.number[row]),
    silent: (row) => latents.density[row] === 0,
  };
  return known[choice] ?? ((row) => latents.bestClass[row] === Number(choice));
}

function says(row, word) {
  // Whether a latent's number is this word, or its name or class holds it.
  const name = names.get(latents.number[row]) ?? "";
  if (String(latents.number[row]) === word.replace(/^#/, "")) return true;
  return name.toLowerCase().includes(word) || className(row).toLowerCase().includes(word);
}

function className(row) {
  // The name of a latent's best class, or nothing.
  return page.classes[latents.bestClass[row]]?.name ?? "";
}

function valueOf(key) {
  // What rows are compared by.
  if (key === "class") return (row) => className(row).toLowerCase() || null;
  return (row) => latents[key][row];
}

function compare(one, other, sign) {
  // Below zero where `one` comes first; what has no value comes last either way.
  if (one === null || other === null) return (one === null) - (other === null);
  return one < other ? -sign : one > other ? sign : 0;
}

function measure() {
  // Takes the rows' height from the style sheet, which knows fingers from mice.
  const box = rowsBox();
  const height = parseFloat(getComputedStyle(box).getPropertyValue("--row"));
  const first = box.scrollTop / list.height;
  list.height = height;
  drawRows();
  box.scrollTop = first * height;
  drawRows();
}

function drawSoon() {
  // Draws once before the next frame, however often it is asked to.
  if (!list.frame) list.frame = requestAnimationFrame(drawRows);
}

function drawRows() {
  // Rows in sight and a few beyond, at their places in a box as tall as all of them.
  list.frame = 0;
  const box = rowsBox();
  const tall = document.getElementById("tall");
  const first = Math.max(0, Math.floor(box.scrollTop / list.height) - SPARE);
  const last = first + Math.ceil(box.clientHeight / list.height) + 2 * SPARE;
  tall.style.height = `${list.rows.length * list.height}px`;
  const rows = list.rows.slice(first, last).map((row, i) => drawRow(row, first + i));
  tall.replaceChildren(
    ...(rows.length ? rows : [element("p", { className: "empty" }, "No latent is like that.")]),
  );
  const active = document.getElementById(`row-${latents.number[list.rows[list.cursor]]}`);
  if (active) box.setAttribute("aria-activedescendant", active.id);
  else box.removeAttribute("aria-activedescendant");
}

function drawRow(row, place) {
  // One latent's line: a link to it.
  const number = latents.number[row];
  const name = names.get(number);
  const best = page.classes[latents.bestClass[row]];
  const open = number === shownNumber();
  const made = element(
    "a",
    { role: "option", id: `row-${number}`, href: `#latent-${number}`, tabIndex: -1 },
    element("span", { className: "who" }, String(number), name ? element("b", {}, ` ${name}`) : ""),
    element(
      "span",
      { className: "which" },
      best ? swatch(best.colour) : "",
      best ? best.name : "–",
    ),
    ...SHOWN_FIGURES.map(({ show }) => element("span", {}, show(row))),
  );
  made.setAttribute("aria-selected", String(open));
  made.setAttribute("aria-setsize", String(list.rows.length));
  made.setAttribute("aria-posinset", String(place + 1));
  made.classList.toggle("cursor", place === list.cursor);
  made.style.top = `${place * list.height}px`;
  made.addEventListener("click", () => {
    list.cursor = place;
  });
  return made;
}

function moveCursor(event) {
  // Arrows, Page, Home and End move; Enter opens; in a wide window moving opens too.
  const page_ = Math.max(1, Math.floor(rowsBox().clientHeight / list.height) - 1);
  const steps = {
    ArrowUp: -1,
    ArrowDown: 1,
    PageUp: -page_,
    PageDown: page_,
    Home: -Infinity,
    End: Infinity,
  };
  if (event.key in steps && list.rows.length) {
    event.preventDefault();
    setCursor(list.cursor + steps[event.key]);
    if (isWide()) location.replace(`#latent-${latents.number[list.rows[list.cursor]]}`);
  } else if (event.key === "Enter" && list.rows.length) {
    event.preventDefault();
    location.hash = `#latent-${latents.number[list.rows[list.cursor]]}`;
  }
}

function setCursor(place) {
  // The cursor on a row that is scrolled into sight.
  list.cursor = Math.min(Math.max(place, 0), list.rows.length - 1);
  const box = rowsBox();
  const top = list.cursor * list.height;
  if (top < box.scrollTop) box.scrollTop = top;
  if (top + list.height > box.scrollTop + box.clientHeight)
    box.scrollTop = top + list.height - box.clientHeight;
  drawRows();
}
