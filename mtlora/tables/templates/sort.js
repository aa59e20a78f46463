// A click anywhere in a heading cell, or Enter on its button, sorts the table by that column: numbers by value, texts by name,
// cells without a value last.
for (const header of document.querySelectorAll("th")) {
  header.addEventListener("click", () => {
    const table = header.closest("table");
    const column = header.cellIndex;
    const sign = header.ariaSort === "descending" ? 1 : -1;
    for (const other of table.querySelectorAll("th")) other.ariaSort = "none";
    header.ariaSort = sign > 0 ? "ascending" : "descending";
    const key = (row) => row.cells[column].dataset.value;
    const text = (row) => row.cells[column].textContent;
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === undefined && y === undefined) return sign * text(a).localeCompare(text(b));
      if (x === undefined || y === undefined) return x === undefined ? 1 : -1;
      return sign * (x - y);
    });
    table.tBodies[0].append(...rows);
  });
}
