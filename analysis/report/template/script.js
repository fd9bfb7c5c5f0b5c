"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

// --- the slider: positions, shades, the sentence, the line on the heat map
const slider = $("#slider");
let stop = data.start, pruner = data.pruner;

function show() {
  const here = data.stops[stop];
  $("#now").innerHTML = here.sentence;
  slider.value = stop;
  slider.setAttribute("aria-valuetext", here.spoken);
  for (const row of $$(".node[data-layer]")) {
    const layer = +row.dataset.layer;
    $$("use", row).forEach((mark, p) => {
      mark.setAttribute("x", here.places[p][layer] + "%");
      mark.classList.toggle("fat", here.classes[p][layer] === "empty");
    });
    $("title", row).textContent = data.pruners.map((name, p) => `${name} ${here.densities[p][layer]}`).join(", ");
  }
  for (const spot of $$(".spot[data-layer]")) {
    spot.setAttribute("class", `spot ${spot.dataset.cut} ${here.classes[pruner][+spot.dataset.layer]}`);
  }
  for (const line of $$(".here")) { line.setAttribute("x1", here.at + "%"); line.setAttribute("x2", here.at + "%"); }
  for (const cell of $$("td[data-density]")) {
    const text = here.densities[pruner][+cell.dataset.density];
    cell.textContent = text;
    cell.dataset.value = text === "empty" ? 0 : parseFloat(text);
  }
  for (const chip of $$("[data-stop]")) chip.setAttribute("aria-pressed", +chip.dataset.stop === stop);
  for (const chip of $$("[data-pruner]")) chip.setAttribute("aria-pressed", +chip.dataset.pruner === pruner);
  for (const word of $$(".shown-pruner")) word.textContent = data.pruners[pruner];
}
if (slider) {
  slider.addEventListener("input", () => { stop = +slider.value; show(); });
  for (const chip of $$("[data-stop]")) chip.addEventListener("click", () => { stop = +chip.dataset.stop; show(); });
  for (const chip of $$("[data-pruner]")) chip.addEventListener("click", () => { pruner = +chip.dataset.pruner; show(); });
}

// --- the heat map: what is under the pointer; a click takes the slider there
const readout = $("#readout");
for (const area of $$(".cells[data-panel]")) {
  const under = event => {
    const box = area.getBoundingClientRect(), p = +area.dataset.panel;
    const x = 100 * (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    let at = data.stops.findIndex(one => one.at >= x);
    if (at < 1) at = x <= 0 ? 1 : data.stops.length - 1;
    return { p, at, layer: Math.max(0, Math.min(data.layers.length - 1, Math.floor(y * data.layers.length))) };
  };
  area.addEventListener("pointermove", event => {
    const { p, at, layer } = under(event), here = data.stops[at];
    readout.textContent = `${data.pruners[p]}, ${here.label}×, ${data.layers[layer]}: ${here.densities[p][layer]}`;
    readout.hidden = false;
    readout.style.left = Math.min(event.clientX + 12, innerWidth - readout.offsetWidth - 8) + "px";
    readout.style.top = event.clientY + 14 + "px";
  });
  area.addEventListener("pointerleave", () => { readout.hidden = true; });
  area.addEventListener("click", event => { const found = under(event); stop = found.at; pruner = found.p; show(); });
}

// --- the layer table: sorts by its heads, filters by name and place
const body = $("#layer-table tbody");
if (body) {
  for (const head of $$("#layer-table th")) {
    $("button", head).addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of $$("#layer-table th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => row.cells[head.cellIndex].dataset.value ?? row.cells[head.cellIndex].textContent;
      const order = (a, b) => head.classList.contains("number") ? key(a) - key(b) : key(a).localeCompare(key(b), undefined, { numeric: true });
      body.append(...$$("tr", body).sort((a, b) => down ? order(b, a) : order(a, b)));
    });
  }
  const filter = () => {
    const word = $("#filter-name").value.toLowerCase(), place = $("#filter-place").value;
    let shown = 0;
    for (const row of $$("tr", body)) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(word) || (place && row.dataset.place !== place);
      shown += !row.hidden;
    }
    $("#filter-count").textContent = `${shown} of ${body.rows.length} layers`;
  };
  for (const id of ["#filter-name", "#filter-place"]) $(id).addEventListener("input", filter);
}

// --- copy buttons, and Escape closes an explanation
for (const button of $$("button.copy")) {
  button.addEventListener("click", async () => {
    const text = $("pre", button.parentElement);
    try { await navigator.clipboard.writeText(text.textContent); button.textContent = "Copied"; }
    catch { getSelection().selectAllChildren(text); button.textContent = "Selected"; }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}
for (const term of $$(".term")) {
  const open = () => {
    term.classList.remove("closed");
    const tip = $("[role=tooltip]", term);
    tip.style.marginLeft = "0";
    const beyond = tip.getBoundingClientRect().right - document.documentElement.clientWidth + 8;
    if (beyond > 0 && innerWidth > 720) tip.style.marginLeft = -beyond + "px";
  };
  term.addEventListener("mouseenter", open);
  term.addEventListener("focus", open);
}
document.addEventListener("keydown", event => {
  if (event.key === "Escape") for (const term of $$(".term")) term.classList.add("closed");
});
