"use strict";
(() => {
  const root = document.documentElement;
  const word = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 640px)");

  const short = (axis) => narrow.matches && axis && axis.ticktext
    ? { ticktext: axis.ticktext.map((t) => t.length > 13 ? t.slice(0, 12) + "…" : t),
        tickfont: { size: 8 } }
    : {};

  function themed(layout, height) {
    const ink = word("--ink"), line = word("--line");
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true,
      fixedrange: layout.dragmode === false };
    return Object.assign({}, layout, {
      xaxis: Object.assign({}, axis, layout.xaxis, short(layout.xaxis)),
      yaxis: Object.assign({}, axis, layout.yaxis, short(layout.yaxis)),
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: narrow.matches ? 10 : 12, family: "system-ui, sans-serif" },
      hoverlabel: { bgcolor: word("--card"), bordercolor: line, font: { color: ink } },
      margin: { l: 12, r: 12, t: 24, b: 32 },
      height: narrow.matches ? Math.min(height, 420 + height / 6) : height,
    });
  }

  function draw(box) {
    const figures = JSON.parse(box.querySelector("script").textContent);
    const chosen = box.querySelector("input:checked");
    const figure = figures[chosen ? Number(chosen.value) : 0];
    const config = { responsive: true, displaylogo: false, scrollZoom: false,
      displayModeBar: !narrow.matches && figure.layout.dragmode !== false,
      modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]] };
    const data = figure.data.map((trace) => trace.type === "heatmap"
      ? Object.assign({}, trace, { showscale: !narrow.matches }) : trace);
    Plotly.react(box.querySelector(".plot"), data, themed(figure.layout, figure.height),
      config);
  }

  const boxes = Array.from(document.querySelectorAll(".figure"));
  const seen = new Set();
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting && !seen.has(entry.target)) {
        seen.add(entry.target);
        draw(entry.target);
      }
    }
  }, { rootMargin: "400px" });
  for (const box of boxes) {
    watcher.observe(box);
    for (const input of box.querySelectorAll("input")) {
      input.addEventListener("change", () => draw(box));
    }
  }
  const again = () => boxes.filter((box) => seen.has(box)).forEach(draw);
  dark.addEventListener("change", again);
  narrow.addEventListener("change", again);

  for (const button of document.querySelectorAll("button.ballot")) {
    button.addEventListener("click", () => {
      const found = { pin: { unet: [], te: [] }, veto: { unet: [], te: [] } };
      for (const vote of document.querySelectorAll("select[data-ballot]")) {
        const key = vote.dataset.ballot, at = key.indexOf(":");
        if (vote.value) found[vote.value][key.slice(0, at)]?.push(key.slice(at + 1));
      }
      const link = document.createElement("a");
      link.download = button.dataset.file;
      link.href = "data:application/json;charset=utf-8," +
        encodeURIComponent(JSON.stringify(found, null, 2) + "\n");
      link.click();
    });
  }

  const value = (row, column) => {
    const text = row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const number = Number(text);
    return text !== "" && !Number.isNaN(number) ? number : text;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = Array.from(table.tBodies[0].rows);
        rows.sort((a, b) => {
          const x = value(a, column), y = value(b, column);
          if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
          const order = typeof x === "number" ? x - y : x.localeCompare(y);
          return down ? -order : order;
        });
        table.tBodies[0].append(...rows);
      });
    });
  }
})();
