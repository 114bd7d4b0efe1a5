// Which concept is open, as the address says: #concept-3.

function openConcept() {
  // Follows the address; the strongest concept where it says none.
  const said = /^#concept-(\d+)$/.exec(location.hash);
  const first = list.rows.length ? page.concepts.indexOf(list.rows[0]) : 0;
  const place = said ? Number(said[1]) : first;
  const known = place < page.concepts.length;
  say(said && !known ? `This page has no concept ${said[1]}.` : "");
  shown.place = known ? place : first;
  const concept = page.concepts[shown.place];
  const heading = document.getElementById("heading");
  heading.replaceChildren(swatch(concept.colour), concept.name);
  document.title = `${concept.name} – ${page.title}`;
  drawConcepts();
  drawEffects(concept);
  drawStrip();
  drawLatents();
}

function start() {
  // Everything once, then as the person wants.
  document.getElementById("title").textContent = page.title;
  const facts = page.facts.map(([term, said]) =>
    element("div", {}, element("dt", {}, term), element("dd", {}, said)),
  );
  document.getElementById("facts").append(...facts);
  recallNames();
  const amount = document.getElementById("amount");
  amount.max = Math.max(0, page.amounts.length - 1);
  const nearest = page.amounts.map((each) => Math.abs(each - page.amount));
  amount.value = nearest.indexOf(Math.min(...nearest));
  const window_ = document.getElementById("window");
  window_.max = Math.max(0, page.windows.length - 1);
  window_.value = 0;
  amount.addEventListener("input", drawStrip);
  window_.addEventListener("input", drawStrip);
  document.getElementById("show").addEventListener("change", () => {
    drawStrip();
    drawLatents();
  });
  document.getElementById("order").addEventListener("change", drawLatents);
  document.getElementById("search").addEventListener("input", drawConcepts);
  document.getElementById("export").addEventListener("click", exportNames);
  document.getElementById("load").addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) loadNames(file);
  });
  window.addEventListener("hashchange", openConcept);
  setInterval(flicker, FLICKER);
  drawConcepts();
  openConcept();
}

start();
