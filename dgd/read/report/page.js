const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// ---------------------------------------------------------------------------------------------------------------- theme

const THEMES = ["", "light", "dark"]; // "": as the system says

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function showTheme() {
  root.classList.toggle("dark", isDark()); // DataTables asks for this class
  byId("theme").querySelector("span").textContent = root.dataset.theme || "system";
  for (const place of views.keys()) draw(place);
}

byId("theme").addEventListener("click", () => {
  root.dataset.theme = THEMES[(THEMES.indexOf(root.dataset.theme ?? "") + 1) % THEMES.length];
  try { localStorage.setItem("dgd-theme", root.dataset.theme); } catch { /* no storage: for this page alone */ }
  showTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);

// --------------------------------------------------------------------------------------------------------------- charts

const views = new Map(); // place of a chart that was drawn -> its Vega view, null while it is made

function vegaConfig() {
  const style = getComputedStyle(root);
  const colour = (name) => style.getPropertyValue(name).trim();
  const [text, quiet, grid] = ["--text", "--quiet", "--grid"].map(colour);
  return {
    background: "transparent",
    font: "system-ui, sans-serif",
    view: { stroke: "transparent" },
    axis: {
      labelColor: text, titleColor: quiet, gridColor: grid, domainColor: grid, tickColor: grid, titleFontWeight: "normal", labelFontSize: 11.5,
    },
    rule: { color: quiet },
    text: { color: text },
  };
}

async function draw(place, spec = data.charts[place.id]) {
  views.set(place, views.get(place) ?? null);
  const group = place.closest(".charts");
  const options = {
    actions: false, renderer: "svg", config: vegaConfig(), tooltip: { theme: isDark() ? "dark" : "light" }, loader: { target: "_self" },
    logLevel: 1, // errors alone: that all lines are hidden is no mistake
  };
  const { view } = await vegaEmbed(place, spec, options);
  views.get(place)?.finalize?.();
  views.set(place, view);
  if (group) {
    setSignal(view, "hidden", hiddenOf(group));
    const slider = place.parentElement.querySelector(".start input");
    if (slider) setSignal(view, "start", Number(slider.value));
    await view.runAsync();
  }
  place.dataset.drawn = String(Number(place.dataset.drawn ?? 0) + 1);
}

function setSignal(view, name, value) {
  try { view.signal(name, value); } catch { /* a chart without lines has no such signal */ }
}

function hiddenOf(group) {
  return [...group.querySelectorAll(".legend [data-method][aria-pressed=false]")].map((button) => button.dataset.method);
}

function update(group) {
  for (const place of group.querySelectorAll(".chart")) {
    const view = views.get(place);
    if (!view) continue;
    setSignal(view, "hidden", hiddenOf(group));
    const slider = place.parentElement.querySelector(".start input");
    if (slider) setSignal(view, "start", Number(slider.value));
    view.runAsync();
  }
}

for (const group of document.querySelectorAll(".charts")) {
  const methods = [...group.querySelectorAll(".legend [data-method]")];
  group.addEventListener("click", (event) => {
    const button = event.target.closest(".legend button");
    if (!button) return;
    const all = button.classList.contains("all");
    if (button.dataset.method) button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    else for (const other of methods) other.setAttribute("aria-pressed", String(all));
    update(group);
  });
  const slider = group.querySelector(".start input");
  if (slider) {
    const last = Math.max(...csvColumn(data.charts[slider.closest("figure").querySelector(".chart").id], "x"));
    slider.max = String(Math.max(0, last - 1));
    slider.addEventListener("input", () => {
      slider.nextElementSibling.textContent = slider.value;
      update(group);
    });
  }
}

function csvColumn(spec, name) {
  const [head, ...lines] = Object.values(spec.datasets ?? { own: spec.data.values })[0].trim().split("\n");
  const place = head.split(",").indexOf(name);
  return lines.map((line) => Number(line.split(",")[place]));
}

// A chart is drawn when it comes near: a page of dozens opens at once.
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      watcher.unobserve(entry.target);
      draw(entry.target);
    }
  }
}, { rootMargin: "600px" });
for (const place of document.querySelectorAll(".chart")) watcher.observe(place);

addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
});

// --------------------------------------------------------------------------------------------------------------- tables

const rowsById = new Map(); // also of rows that a filter takes off the page
for (const row of document.querySelectorAll("table.data tbody tr")) rowsById.set(row.id, [row, row.closest("table").caption.textContent]);

for (const table of document.querySelectorAll("table.data")) {
  const caption = table.caption.textContent;
  const targets = [...table.tHead.rows[0].cells].flatMap((cell, i) => (cell.classList.contains("num") ? [i] : []));
  new DataTable(table, {
    paging: false, info: false, order: [], autoWidth: false,
    searching: table.tBodies[0].rows.length > 3,
    layout: { topStart: "search", topEnd: null, bottomStart: null, bottomEnd: null },
    language: { search: "Filter: ", searchPlaceholder: "", zeroRecords: "no row has this" },
    columnDefs: [{ targets, type: "num" }],
  });
  table.closest(".dt-container").querySelector("input")?.setAttribute("aria-label", `Filter: ${caption}`);
}

// --------------------------------------------------------------------------------------- details of a cell, and of a row

const dialog = byId("dialog");

function pairs(items) {
  const list = make("dl");
  for (const [name, value] of items) {
    list.append(make("dt", {}, name), make("dd", {}, value instanceof Node ? value : String(value)));
  }
  return list;
}

function linkTo(path, name = path) {
  const cell = data.cells[path];
  if (!cell) return make("code", {}, path);
  const value = cell.values[0]?.[1] ?? cell.status;
  return make("span", { class: "cell" }, make("a", { href: `#cell/${path}` }, name), `: ${value}`);
}

function cellDetails(path) {
  const cell = data.cells[path];
  const found = [make("h2", { id: "dialog-title" }, path)];
  const values = [["status", cell.status], ...cell.values];
  if (cell.others.length) values.push(["other networks, last epoch", cell.others.join(", ")]);
  found.push(make("p", {}, `${cell.metric[0].toUpperCase()}${cell.metric.slice(1)}.`), pairs(values));
  if (cell.error) found.push(make("h3", {}, "Error"), make("pre", {}, cell.error));
  if (cell.history.length) {
    const place = make("div", { class: "chart", id: "dialog-chart" });
    const spec = structuredClone(data.charts[`metric/${cell.metric}`]);
    spec.data = { values: cell.history.map(([x, y]) => ({ x, y })) };
    found.push(make("h3", {}, "Curve"), place);
    requestAnimationFrame(() => place.isConnected && draw(place, spec));
  }
  found.push(make("h3", {}, "Config"), pairs(cell.config));
  if (cell.command) {
    found.push(make("h3", {}, "Command"), make("pre", {}, cell.command));
    found.push(make("p", {}, "Train it again: ", make("code", {}, `dgd-bench reproduce results/${path}`)));
  }
  if (cell.provenance.length) {
    const teachers = Object.keys(cell.teachers).map((teacher) => ["teacher", linkTo(teacher)]);
    found.push(make("h3", {}, "Provenance"), pairs([...cell.provenance, ...teachers]));
  }
  if (cell.log) found.push(make("h3", {}, "End of train.log"), make("pre", {}, cell.log));
  return found;
}

function rowDetails(id) {
  const [row, caption] = rowsById.get(id);
  const cells = [...row.querySelectorAll(".from .group")].map((group) => {
    const links = [...group.querySelectorAll("a")].map((link) => [link.textContent, link.getAttribute("href").slice("#cell/".length)]);
    return [group.firstChild.textContent.replace(":", "").trim(), make("span", {}, ...links.map(([seed, path]) => linkTo(path, `seed ${seed}`)))];
  });
  const found = [make("h2", { id: "dialog-title" }, row.cells[0].firstChild.textContent), make("p", {}, caption), make("h3", {}, "Cells that these numbers come from"), pairs(cells)];
  const values = Object.entries(data.rows[id] ?? {});
  if (values.length) found.push(make("h3", {}, "All numbers of this row"), pairs(values));
  return found;
}

function show(content) {
  const place = dialog.querySelector("div");
  for (const chart of place.querySelectorAll(".chart")) {
    views.get(chart)?.finalize?.();
    views.delete(chart);
  }
  place.replaceChildren(...content);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function route() {
  const id = decodeURIComponent(location.hash.slice(1));
  const target = byId(id);
  for (let fold = target?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  if (id.startsWith("cell/") && data.cells[id.slice(5)]) show(cellDetails(id.slice(5)));
  else if (id.startsWith("row/") && (data.rows[id] || rowsById.get(id)?.[0].querySelector(".from a"))) show(rowDetails(id));
  else {
    if (dialog.open) dialog.close();
    target?.scrollIntoView();
  }
}

// The address names what is open, so that it can be sent; closing takes it back.
let from = "";
addEventListener("hashchange", (event) => {
  if (!dialog.open) from = new URL(event.oldURL).hash;
  route();
});
dialog.addEventListener("close", () => {
  if (/^#(cell|row)\//.test(location.hash)) history.pushState(null, "", /^#(cell|row)\//.test(from) || !from ? "#main" : from);
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});

if (innerWidth < 992) document.querySelector("nav details").open = false;
showTheme();
if (location.hash) route();
root.dataset.ready = "yes";
