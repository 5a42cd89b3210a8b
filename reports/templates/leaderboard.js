"use strict";
// Filters by model, suite and length; without it every row is shown.
(() => {
  const form = document.getElementById("filters");
  const kinds = ["model", "suite", "tokens"];
  const apply = () => {
    const wanted = Object.fromEntries(kinds.map((kind) => [kind, form.elements[kind].value]));
    for (const kind of kinds) {
      for (const element of document.querySelectorAll(`[data-${kind}]`)) {
        const fits = wanted[kind] === "" || element.dataset[kind] === wanted[kind];
        element.classList.toggle(`not-${kind}`, !fits);
      }
    }
    const shown = document.querySelectorAll("#standings tbody tr:not(.not-model)").length;
    document.getElementById("shown").textContent = `${shown} rows shown`;
    const asked = kinds.filter((kind) => wanted[kind] !== "").map((kind) => `${kind}=${encodeURIComponent(wanted[kind])}`);
    history.replaceState(null, "", asked.length ? `#${asked.join("&")}` : location.pathname + location.search);
  };
  for (const [kind, value] of new URLSearchParams(location.hash.slice(1))) {
    if (kinds.includes(kind) && [...form.elements[kind].options].some((option) => option.value === value)) {
      form.elements[kind].value = value;
    }
  }
  form.hidden = false;
  form.addEventListener("change", apply);
  if (kinds.some((kind) => form.elements[kind].value !== "")) apply();
})();
