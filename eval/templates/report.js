"use strict";
// A click on a column's header sorts its table: numbers from the largest first, then the other way round. Rows without
// a value stay last.
document.querySelectorAll("table.sortable").forEach((table) => {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];

  const textOf = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();

  const compare = (a, b, numeric, sign) => {
    if (a === "" || b === "") return Number(a === "") - Number(b === "");
    return sign * (numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true }));
  };

  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    const numeric = head.classList.contains("num");
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const first = numeric ? "descending" : "ascending";
      const second = first === "descending" ? "ascending" : "descending";
      const order = before === first ? second : first;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...body.rows].map((row) => [textOf(row, column), row]);
      rows.sort((a, b) => compare(a[0], b[0], numeric, sign));
      body.append(...rows.map((pair) => pair[1]));
    });
  });
});
