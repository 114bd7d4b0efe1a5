// Names that people give to latents: kept in this browser, exported to and loaded from a file.

const SHELF = `diffdict/names/${page.key}`;
const names = new Map(Object.entries(page.names).map(([key, name]) => [Number(key), name]));
const given = new Map(); // what was typed or loaded here; an empty name takes one away
let shelfWorks = true;

function recallNames() {
  // Adds the names that this browser has kept for this dictionary.
  let kept = {};
  try {
    kept = JSON.parse(localStorage.getItem(SHELF) ?? "{}");
  } catch {
    shelfWorks = false;
  }
  if (isNames(kept)) {
    for (const [key, name] of Object.entries(kept)) setName(Number(key), name);
  }
}

function isNames(value) {
  // Whether this is an object of names by number.
  if (value === null || typeof value !== "object") return false;
  return Object.entries(value).every(
    ([key, name]) => /^\d+$/.test(key) && typeof name === "string",
  );
}

function setName(number, name) {
  // One name here, on no shelf yet.
  given.set(number, name.trim());
  if (name.trim()) names.set(number, name.trim());
  else names.delete(number);
}

function keepNames() {
  // Puts what was given here on the browser's shelf, or says that there is none.
  try {
    localStorage.setItem(SHELF, JSON.stringify(Object.fromEntries(given)));
  } catch {
    shelfWorks = false;
  }
  if (!shelfWorks) say("This browser keeps nothing for a page from disk: export the names.");
}

function exportNames() {
  // Downloads all names as the file that this page, and its generator, read.
  const sorted = [...names].sort(([one], [other]) => one - other);
  const said = { dictionary: page.key, names: Object.fromEntries(sorted) };
  const blob = new Blob([JSON.stringify(said, null, 1) + "\n"], { type: "application/json" });
  const link = element("a", { href: URL.createObjectURL(blob), download: "names.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  say(`${names.size} names exported to names.json.`);
}

async function loadNames(file) {
  // Takes over the names in a file of this dictionary.
  let said = null;
  try {
    said = JSON.parse(await file.text());
  } catch {
    return say(`${file.name} is not JSON.`);
  }
  if (!isNames(said?.names)) return say(`${file.name} holds no names.`);
  if (said.dictionary !== page.key) {
    return say(`${file.name} names the latents of another dictionary, ${said.dictionary}.`);
  }
  const loaded = Object.entries(said.names);
  for (const [key, name] of loaded) setName(Number(key), name);
  keepNames();
  showNames();
  return say(`${loaded.length} names loaded.`);
}

function say(text) {
  // A line for what just happened.
  document.getElementById("said").textContent = text;
}
