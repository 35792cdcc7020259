"use strict";

// Sorting: a heading sorts by its column, a second click reverses the order; empty cells stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const numeric = [...table.tBodies[0].rows].some((row) => "value" in row.cells[column].dataset);
      const before = heading.getAttribute("aria-sort");
      // Numbers start descending, names ascending.
      const first = numeric ? "descending" : "ascending";
      const other = numeric ? "ascending" : "descending";
      const order = before === first ? other : first;
      for (const each of headings) each.setAttribute("aria-sort", each === heading ? order : "none");
      const sign = order === "ascending" ? 1 : -1;
      const key = (row) => {
        const cell = row.cells[column];
        if (numeric) return "value" in cell.dataset ? Number(cell.dataset.value) : null;
        return cell.textContent.trim() || null;
      };
      const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        return sign * (numeric ? a - b : a.localeCompare(b, undefined, { numeric: true }));
      });
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}

// Pictures: two layers share a stage, divided at the slider.
for (const scene of document.querySelectorAll(".scene")) {
  const stage = scene.querySelector(".stage");
  const wipe = scene.querySelector(".wipe");
  const cut = () => stage.style.setProperty("--cut", `${wipe.value}%`);
  wipe.addEventListener("input", cut);
  cut();
  for (const side of ["left", "right"]) {
    const choice = scene.querySelector(`select.${side}`);
    const show = () => {
      for (const layer of stage.querySelectorAll(".layer")) {
        layer.classList.toggle(`on-${side}`, layer.dataset.layer === choice.value);
      }
    };
    choice.addEventListener("change", show);
    show();
  }
}
for (const opacity of document.querySelectorAll(".opacity")) {
  const gallery = opacity.closest("section").querySelector(".gallery");
  const tint = () => {
    for (const stage of gallery.querySelectorAll(".stage")) {
      stage.style.setProperty("--tint", opacity.value / 100);
    }
  };
  opacity.addEventListener("input", tint);
  tint();
}
// Without this script, and on paper, all layers are shown side by side.
document.documentElement.classList.add("live");
