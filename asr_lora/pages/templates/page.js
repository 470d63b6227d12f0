"use strict";
// Sorts tables by a click on a head, and filters utterances. Without it everything is there to read.

function valueOf(item, column) {
  const text = (item.rows ? item.rows[0] : item).cells[column].textContent.trim();
  const number = parseFloat(text.replace("−", "-").replace("< ", "").replace(/,(?=\d{3})/g, ""));
  return { text, number, missing: text === "–" };
}

function sort(table, column, down) {
  const many = table.classList.contains("utterances");
  const items = [...(many ? table.tBodies : table.tBodies[0].rows)];
  const values = new Map(items.map((item) => [item, valueOf(item, column)]));
  const numeric = items.every((item) => values.get(item).missing || !Number.isNaN(values.get(item).number));
  items.sort((one, other) => {
    const a = values.get(one), b = values.get(other);
    if (a.missing || b.missing) return a.missing - b.missing; // what has no number stays last
    const order = numeric ? a.number - b.number : a.text.localeCompare(b.text, undefined, { numeric: true });
    return down ? -order : order;
  });
  items.forEach((item) => item.parentNode.append(item));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(table, column, down);
    });
  });
}

const filter = document.querySelector("form.filter");
if (filter) {
  const bodies = [...document.querySelector("table.utterances").tBodies];
  const texts = new Map(bodies.map((body) => [body, body.textContent.normalize().toLowerCase()]));
  const [wanted, side, kind, found] = ["wanted", "side", "kind", "found"].map((id) => document.getElementById(id));
  const show = () => {
    const text = wanted.value.normalize().trim().toLowerCase();
    const [which, system] = side.value.split(" ");
    let shown = 0;
    for (const body of bodies) {
      const fits = texts.get(body).includes(text) &&
        (!which || body.dataset[which].split(" ").includes(system)) &&
        (!kind.value || body.dataset.kinds.split(" ").includes(kind.value));
      body.hidden = !fits;
      shown += fits;
    }
    found.textContent = `${shown} of ${bodies.length} utterances`;
  };
  filter.hidden = false;
  filter.addEventListener("input", show);
  filter.addEventListener("submit", (event) => event.preventDefault());
  show();
}

// Paper has no clicks: everything is unfolded while it is printed.
let unfolded = [];
addEventListener("beforeprint", () => {
  unfolded = [...document.querySelectorAll("details:not([open])")];
  unfolded.forEach((details) => { details.open = true; });
});
addEventListener("afterprint", () => unfolded.forEach((details) => { details.open = false; }));
