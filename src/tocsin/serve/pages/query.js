// The box for SQL: a query over the tables, its rows as a table and a simple chart, and as files. Cells are set as text.
import { LANGUAGE, SEPARATORS, node, show } from "/chart.js";
import { Clock } from "/clock.js";
import { checked } from "/wire.js";

const get = (id) => document.getElementById(id);
const CELL_MAX = 200;
const LINES_MAX = 8;
const TICKS_MAX = 8;
const MEDIA = { csv: "text/csv", parquet: "application/vnd.apache.parquet" };

export class QueryBox {
  /** @param {import("/access.js").Access} access */
  constructor(access) {
    this.access = access;
    this.running = null;
    this.clock = new Clock();
    this.clock.take("UTC"); // as the table beside the chart has it
    get("open-query").addEventListener("click", () => { get("query").showModal(); get("sql").focus(); });
    get("close-query").addEventListener("click", () => get("query").close());
    get("query").addEventListener("close", () => this.running?.abort());
    get("run-query").addEventListener("click", () => this.run());
    for (const form of Object.keys(MEDIA)) get(`query-${form}`).addEventListener("click", () => this.download(form));
    get("sql").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.run(); });
  }

  async ask(form) {
    this.running?.abort();
    const mine = this.running = new AbortController();
    this.say("running …");
    try {
      const response = await fetch("/api/sql", { method: "POST", headers: this.access.headers, body: JSON.stringify({ sql: get("sql").value, form }), signal: mine.signal });
      if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error || `the page answered ${response.status}`);
      return response;
    } catch (error) {
      if (error.name !== "AbortError") this.say(error.message, true);
      return null;
    }
  }

  async run() {
    const response = await this.ask("json");
    if (!response) return;
    try { this.paint(checked("QueryAnswer", await response.json())); } catch (error) { this.say(error.message, true); }
  }

  async download(form) {
    const response = await this.ask(form);
    if (!response) return;
    const url = URL.createObjectURL(new Blob([await response.blob()], { type: MEDIA[form] }));
    const link = node("a");
    Object.assign(link, { href: url, download: `query.${form}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    this.say(response.headers.get("x-tocsin-cut") ? "Only the first rows are in the file: there were more." : "");
  }

  say(text, isWrong = false) {
    get("query-said").textContent = text;
    get("query-said").classList.toggle("error", isWrong);
  }

  /** @param {import("/wire.js").QueryAnswer} answer */
  paint(answer) {
    const tables = Object.entries(answer.rests_on).map(([name, version]) => `${name} at version ${version}`).join(", ");
    const count = `${answer.rows.length.toLocaleString(LANGUAGE)} ${answer.rows.length === 1 ? "row" : "rows"}`;
    this.say(`${answer.is_cut ? `the first ${count}; there are more` : count}${tables ? ` of ${tables}` : ""}`);
    const head = node("tr");
    for (const column of answer.columns) head.append(node("th", column.kind, column.name));
    const rows = answer.rows.map((cells) => {
      const row = node("tr");
      cells.forEach((cell, i) => row.append(node("td", answer.columns[i].kind, textOf(cell))));
      return row;
    });
    const [top, body] = [node("thead"), node("tbody")];
    top.append(head);
    body.append(...rows);
    get("query-rows").replaceChildren(top, body);
    this.draw(answer);
  }

  // The first column of times, else of texts, is what the numbers are drawn over: as lines, or as bars.
  draw(answer) {
    const host = get("query-chart");
    const over = answer.columns.findIndex((one) => one.kind === "time") >= 0 ? "time" : "text";
    const x = answer.columns.findIndex((one) => one.kind === over);
    const numbers = answer.columns.map((one, i) => [one, i]).filter(([one]) => one.kind === "number").slice(0, LINES_MAX);
    host.hidden = x < 0 || !numbers.length || answer.rows.length < 2;
    globalThis.Plotly.purge(host);
    if (host.hidden) return;
    const xs = answer.rows.map((row) => row[x]);
    const traces = numbers.map(([column, i]) => ({ name: column.name, x: xs, y: answer.rows.map((row) => row[i]), type: over === "time" ? "scatter" : "bar", mode: "lines+markers", marker: { size: 4 } }));
    const colour = getComputedStyle(document.documentElement);
    const axis = { gridcolor: colour.getPropertyValue("--line"), automargin: true, type: over === "time" ? "date" : "category" };
    const layout = {
      margin: { l: 50, r: 10, t: 10, b: 40 }, height: 240, showlegend: numbers.length > 1, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, xaxis: axis, yaxis: { gridcolor: axis.gridcolor, automargin: true },
      separators: SEPARATORS, paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: { color: colour.getPropertyValue("--text"), size: 11 },
    };
    globalThis.Plotly.newPlot(host, traces, layout, { responsive: true, displayModeBar: false });
    if (over !== "time") return;
    axis.hoverformat = "%Y-%m-%d %H:%M:%S";
    const tick = () => {
      const [from, to] = host._fullLayout.xaxis.range.map((end) => (typeof end === "number" ? end : Date.parse(end.length > 10 ? `${end.slice(0, 23).replace(" ", "T")}Z` : end)));
      // as texts: Plotly takes numbers to be by the browser's clock
      const { moments, texts } = this.clock.ticks(from, to, TICKS_MAX);
      globalThis.Plotly.relayout(host, { "xaxis.tickmode": "array", "xaxis.tickvals": moments.map((at) => new Date(at).toISOString()), "xaxis.ticktext": texts });
    };
    tick();
    host.on("plotly_relayout", (changed) => { if (Object.keys(changed).some((name) => /^xaxis\.(range|autorange)/.test(name))) tick(); });
  }
}

function textOf(cell) {
  if (cell === null) return "";
  if (typeof cell === "number") return show(cell);
  const text = typeof cell === "string" ? cell : JSON.stringify(cell);
  return text.length > CELL_MAX ? `${text.slice(0, CELL_MAX)}…` : text;
}
