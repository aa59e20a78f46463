// A click on a header sorts its table by that column: numbers by value, texts by name, cells without a value last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const header = button.parentElement;
    const table = header.closest("table");
    const column = header.cellIndex;
    const sign = header.ariaSort === "descending" ? 1 : -1;
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
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
