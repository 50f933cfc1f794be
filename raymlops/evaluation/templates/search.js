for (const box of document.querySelectorAll("input[data-rows]")) {
  const held = document.getElementById(box.dataset.rows);
  const whole = box.closest(".search");
  const told = whole.querySelector("output");
  const rows = [...held.querySelectorAll("tr")].filter(row => row.querySelector("td"));
  const texts = rows.map(row => row.textContent.toLowerCase());
  whole.hidden = false;
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, place) => {
      row.hidden = !words.every(word => texts[place].includes(word));
      shown += !row.hidden;
    });
    for (const fold of held.querySelectorAll("details")) fold.open = words.length > 0;
    told.textContent = words.length ? `${shown} of ${rows.length}` : "";
  });
}
