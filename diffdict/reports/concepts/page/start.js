// Which view is open, as the address says: #classes, #latents or #latent-123.

function isWide() {
  // Whether the list stands beside the other views.
  return matchMedia("(min-width: 60rem)").matches;
}

function openView() {
  // Follows the address.
  const said = /^#latent-(\d+)$/.exec(location.hash);
  const row = said ? rowOf.get(Number(said[1])) : undefined;
  say(said && row === undefined ? `This page has no latent ${said[1]}.` : "");
  const view =
    row !== undefined ? "latent" : location.hash === "#latents" || said ? "list" : "classes";
  document.body.dataset.view = view;
  if (row !== undefined) openLatent(row);
  for (const link of document.querySelectorAll("nav a")) {
    const current = { "to-list": "list", "to-latent": "latent" }[link.id] ?? "classes";
    if (current === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  drawRows();
}

function openLatent(row) {
  // A latent in view, in the heading and in the list.
  const title = `Latent ${latents.number[row]}`;
  const link = document.getElementById("to-latent");
  link.textContent = title;
  link.href = `#latent-${latents.number[row]}`;
  link.hidden = false;
  document.title = `${title} – ${page.title}`;
  if (shown.row === row) return;
  const place = list.rows.indexOf(row);
  if (place >= 0 && place !== list.cursor) setCursor(place);
  showLatent(row);
  for (const scrolled of [window, document.getElementById("view-latent")]) scrolled.scrollTo(0, 0);
  const inside = document.activeElement?.closest("#view-list, #view-latent");
  if (!inside) document.querySelector("#latent h2").focus({ preventScroll: true });
}

function showStrength() {
  // The heat's strength, which all overlays follow.
  const share = document.getElementById("strength").value / 100;
  document.getElementById("pictures").style.setProperty("--heat", share);
}

function start() {
  // Everything once, then as the person wants.
  recallNames();
  drawClasses();
  startList();
  showNames();
  showStrength();
  document.getElementById("strength").addEventListener("input", showStrength);
  document
    .getElementById("mask")
    .addEventListener("change", () => shown.masks.forEach((redraw) => redraw()));
  document.getElementById("export").addEventListener("click", exportNames);
  document.getElementById("load").addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) loadNames(file);
  });
  window.addEventListener("hashchange", openView);
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    if (!isWide()) location.hash = "#latents";
    setTimeout(() => document.getElementById("search").focus());
  });
  openView();
}

start();
