"use strict";
(() => {
  const root = document.documentElement;

  // The theme outlives a reload; a page opened from disk may have no storage.
  const store = { get: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
    set: (value) => { try { localStorage.setItem("theme", value); } catch { /* not kept */ } } };
  for (const input of document.querySelectorAll("input[name=theme]")) {
    if (input.value === store.get()) input.checked = true;
    input.addEventListener("change", () => store.set(input.value));
  }

  // The heading cells of a table by column, spans counted.
  const columnsOf = (table) => {
    const grid = [], found = [];
    [...table.tHead.rows].forEach((row, y) => {
      let x = 0;
      for (const cell of row.cells) {
        while ((grid[y] ||= [])[x]) x++;
        for (let dy = 0; dy < cell.rowSpan; dy++)
          for (let dx = 0; dx < cell.colSpan; dx++) (grid[y + dy] ||= [])[x + dx] = true;
        if (cell.scope === "col") found.push([cell, x]);
      }
    });
    return found;
  };
  const value = (row, x) => {
    const cell = row.cells[x];
    const text = cell.dataset.v ?? (cell.querySelector("a, span, strong") ?? cell).textContent.trim();
    const number = parseFloat(text.replace(/^[^\d.+-]+(?=[\d.])/, ""));
    return { text, number: /^[\[<≥~]?\s*[+-]?[\d.]/.test(text) ? number : NaN };
  };
  const order = (a, b) => {
    if (isNaN(a.number) && isNaN(b.number)) return a.text.localeCompare(b.text);
    if (isNaN(a.number)) return 2;
    return isNaN(b.number) ? -2 : a.number - b.number;
  };
  const sort = (table, cell, x) => {
    const down = cell.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
    cell.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [value(row, x), row]);
    // What has no number stays last either way.
    rows.sort(([a], [b]) => { const d = order(a, b); return Math.abs(d) === 2 ? d : down ? -d : d; });
    body.append(...rows.map(([, row]) => row));
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const [cell, x] of columnsOf(table)) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...cell.childNodes);
      button.addEventListener("click", () => sort(table, cell, x));
      cell.append(button);
    }
  }

  // A figure is saved as it stands in the light theme: each colour's fallback.
  for (const link of document.querySelectorAll("a.save-svg")) {
    link.hidden = false;
    link.addEventListener("click", () => {
      const svg = link.closest("figure").querySelector("svg").cloneNode(true);
      svg.setAttribute("xmlns", "http://www.w3.org/2000/svg");
      const text = svg.outerHTML.replace(/var\(--[\w-]+, (#[0-9a-f]{6})\)/g, "$1");
      link.href = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
    });
  }

  // A link to something inside a folded part opens it.
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let at = target?.parentElement; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    target?.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  if (location.hash) reveal();
  addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details.means, details.wide")) part.open = true; });
})();
