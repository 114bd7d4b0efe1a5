// What the page was given: figures as JSON, pictures as base64.

const page = JSON.parse(takeText("data-figures"));
const pictureText = takeText("data-pictures");
const pictureStart = running(page.pictures.map(([, length]) => length));
const EDITS = {
  latents: "its latents",
  direction: "random direction",
  others: "other latents",
  others_equal: "others, as large a change",
  difference: "mean difference",
  reconstruction: "only drawn again",
};

function pictureSource(index) {
  // The address of a picture: its own bytes.
  const [kind, length] = page.pictures[index];
  const start = pictureStart[index];
  return `data:${kind};base64,${pictureText.slice(start, start + length)}`;
}

function factor(value) {
  // An amount as people type it.
  return String(Number(value.toFixed(2))).replace("-", "−");
}

function effectOf(concept, edit) {
  // The figures of one edit, or none.
  return concept.effects.find((each) => each.edit === edit) ?? null;
}

function compare(one, other, sign) {
  // Below zero where `one` comes first; what has no value comes last either way.
  if (one === null || other === null) return (one === null) - (other === null);
  return one < other ? -sign : one > other ? sign : 0;
}
