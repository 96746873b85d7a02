"use strict";
const table = document.querySelector("#table table");
const body = table.tBodies[0];
const headers = [...table.tHead.rows[0].cells];

function value(row, index) {
  const cell = row.cells[index];
  const number = cell.dataset.sort === "" ? NaN : Number(cell.dataset.sort);
  return cell.dataset.sort !== undefined ? number : cell.textContent.trim().toLowerCase();
}

function compare(a, b, up) {
  if (typeof a === "number") {
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return up ? a - b : b - a;
  }
  return up ? a.localeCompare(b) : b.localeCompare(a);
}

headers.forEach((header, index) => {
  header.querySelector("button").addEventListener("click", () => {
    const up = header.getAttribute("aria-sort") === "descending" || (!header.hasAttribute("aria-sort") && index === 0);
    headers.forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    [...body.rows].sort((a, b) => compare(value(a, index), value(b, index), up)).forEach((row) => body.append(row));
  });
});

const search = document.querySelector("#search");
const verdict = document.querySelector("#verdict");
const count = document.querySelector("#count");
function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of body.rows) {
    const text = row.dataset.text.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word)) || (verdict.value !== "" && !row.querySelector("." + verdict.value));
    shown += row.hidden ? 0 : 1;
  }
  count.textContent = shown + " of " + body.rows.length + " rows";
}
search.addEventListener("input", filter);
verdict.addEventListener("change", filter);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && location.hash.startsWith("#cell-")) location.hash = "#table";
});
filter();
