"use strict";
// Everything the page says is there without this: it adds search, sorting, reading values off charts, and the colours' switch.

const all = (selector, within = document) => [...within.querySelectorAll(selector)];

function theme() {
  const button = document.getElementById("theme"), names = ["auto", "light", "dark"];
  const kept = () => { try { return localStorage.getItem("djinn-theme"); } catch { return null; } };
  const show = (name) => {
    if (name === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = name;
    button.textContent = name[0].toUpperCase() + name.slice(1);
    button.setAttribute("aria-label", "Colours: " + (name === "auto" ? "as the system has them" : name));
    button.value = name;
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    const name = names[(names.indexOf(button.value) + 1) % names.length];
    show(name);
    try { localStorage.setItem("djinn-theme", name); } catch { /* a page from a file may have no storage */ }
  });
  show(names.includes(kept()) ? kept() : "auto");
}

function search(input) {
  const table = document.getElementById(input.dataset.search), rows = all("tbody tr", table);
  const found = document.querySelector(`[data-found="${table.id}"]`), before = found.textContent;
  const marks = all("[data-regions]", table.closest("details"));
  input.closest("label").hidden = false;
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean), shown = new Set();
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      if (!row.hidden) shown.add(row.id.slice(row.id.lastIndexOf("r") + 1));
    }
    for (const mark of marks) {
      const own = mark.dataset.regions.split(" ").filter(Boolean);
      mark.classList.toggle("dim", words.length > 0 && own.length > 0 && !own.some((one) => shown.has(one)));
    }
    found.textContent = words.length ? `${shown.size} of ${rows.length} regions` : before;
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && input.value) { input.value = ""; input.dispatchEvent(new Event("input")); }
  });
}

function sorting(table) {
  const heads = all("thead th", table), body = table.tBodies[0];
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      const numeric = head.classList.contains("n");
      const key = (row) => {
        const cell = row.cells[place];
        return numeric ? Number(cell.dataset.value ?? cell.textContent.replace(/,/g, "")) : cell.textContent;
      };
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        return (numeric ? x - y : x.localeCompare(y, undefined, { numeric: true })) * (up ? 1 : -1);
      });
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      body.append(...rows);
    });
  });
}

// A chart is read by pointing at it, or by the arrow keys once it has the focus; what is read stands below it.
function reading(figure, count, nearest, mark) {
  const svg = figure.querySelector("svg.drawn"), output = figure.querySelector("output"), before = output.textContent;
  let at = -1;
  const show = (place) => { at = place; output.textContent = place < 0 ? before : mark(place); if (place < 0) mark(-1); };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    show(nearest((100 * (event.clientX - box.left)) / box.width, event));
  });
  svg.addEventListener("pointerleave", () => show(-1));
  svg.addEventListener("blur", () => show(-1));
  svg.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, PageDown: 10, PageUp: -10 };
    let place = at;
    if (event.key in steps) place = at < 0 ? (steps[event.key] > 0 ? 0 : count - 1) : at + steps[event.key];
    else if (event.key === "Home") place = 0;
    else if (event.key === "End") place = count - 1;
    else if (event.key === "Escape") place = -1;
    else return;
    event.preventDefault();
    show(event.key === "Escape" ? -1 : Math.min(count - 1, Math.max(0, place)));
  });
}

function timeline(figure) {
  const bars = all(".bar", figure);
  const mark = (place) => {
    bars.forEach((bar, one) => bar.classList.toggle("chosen", one === place));
    return place < 0 ? "" : bars[place].dataset.about;
  };
  reading(figure, bars.length, (_, event) => bars.indexOf(event.target.closest(".bar")), mark);
}

function memory(figure) {
  const points = JSON.parse(figure.dataset.points), cursor = figure.querySelector(".cursor");
  const nearest = (percent) =>
    points.reduce((best, [x], place) => (Math.abs(x - percent) < Math.abs(points[best][0] - percent) ? place : best), 0);
  reading(figure, points.length, nearest, (place) => {
    cursor.setAttribute("visibility", place < 0 ? "hidden" : "visible");
    if (place < 0) return "";
    cursor.setAttribute("x1", points[place][0] + "%");
    cursor.setAttribute("x2", points[place][0] + "%");
    return points[place][1];
  });
}

theme();
all("input[data-search]").forEach(search);
all("table.regions").forEach(sorting);
all('figure[data-chart="time"]').forEach(timeline);
all('figure[data-chart="memory"]').forEach(memory);
// What is linked to is shown, also inside a part that is closed.
addEventListener("hashchange", () => document.querySelector(location.hash || "#main")?.closest("details")?.setAttribute("open", ""));
