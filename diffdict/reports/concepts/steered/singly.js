// The concept's latents one by one, at the amount that was measured, in all timesteps.

function drawLatents() {
  // A line a latent: number, name, figures, and the same pictures.
  const concept = page.concepts[shown.place];
  const key = document.getElementById("order").value;
  const sign = key === "kept" || key === "number" ? 1 : -1;
  const sorted = [...concept.latents].sort((one, other) => compare(one[key], other[key], sign));
  const lines = sorted.map((latent) => latentLine(concept, latent));
  const note = `Each × ${factor(page.amount)} alone, in all timesteps.`;
  const bare = page.bare ? " Their pictures were left out to keep the page small." : "";
  document
    .getElementById("latents")
    .replaceChildren(element("p", { className: "quiet" }, note + bare), ...lines);
}

function latentLine(concept, latent) {
  // One latent.
  const name = element("input", {
    value: names.get(latent.number) ?? "",
    placeholder: "Name it",
    maxLength: 80,
    autocomplete: "off",
    "aria-label": `Name of latent ${latent.number}`,
  });
  name.addEventListener("change", () => {
    setName(latent.number, name.value);
    keepNames();
    drawConcepts();
  });
  const figures =
    `kept ${decimal(latent.kept)}, rms ${decimal(latent.rms, 3)}, ` +
    `density ${percent(latent.density)}`;
  const pictures = latent.on.map((on, place) => {
    const seed = concept.seeds[place];
    return element("figure", {}, shownPair(seed.off, on, `latent ${latent.number}, ${seed.name}`));
  });
  return element(
    "div",
    { className: "latent", id: `latent-${latent.number}` },
    element(
      "div",
      { className: "tools" },
      element("b", {}, `Latent ${latent.number}`),
      name,
      element("span", { className: "quiet" }, figures),
    ),
    element("div", { className: "pictures" }, ...pictures),
  );
}

function showNames() {
  // What bears names, after some have come.
  drawConcepts();
  if (shown.place !== null) drawLatents();
}
