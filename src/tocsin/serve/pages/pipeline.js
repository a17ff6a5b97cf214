// The pipeline, seen: its parts as a graph with live figures; of the chosen one its last rows, settings and their docs.
import { LANGUAGE, node, show, when, write } from "/chart.js";
import { layered } from "/layers.js";
import { worded } from "/wire.js";

const EVERY_MS = 1000; // while it is open; the engine keeps last rows for as long as somebody asks
const NARROW = matchMedia("(max-width: 760px)"); // as style.css has it: the graph goes down, not to the right
const SVG = "http://www.w3.org/2000/svg";
const SIGNS = { well: "", odd: "▲ odd", bad: "◆ needs somebody", ended: "■ ended", unknown: "" };
const get = (id) => document.getElementById(id);

export class PipelineBox {
  /**
   * @param {(path: string, schema: string) => Promise<any>} load  null if the server is away
   * @param {() => string} stale  what is wrong with the server or the engine, in words; empty if nothing is
   * @param {(id: string) => void} told  of the part that is chosen, empty where none is any more
   */
  constructor(load, stale, told) {
    Object.assign(this, { load, stale, told });
    this.box = get("pipeline");
    this.buttons = new Map();
    this.layers = [];
    this.chosen = this.linked = null;
    get("open-pipeline").addEventListener("click", () => this.open());
    get("close-pipeline").addEventListener("click", () => this.box.close());
    this.box.addEventListener("close", () => this.choose(null));
    get("graph").addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(get("layers"));
    setInterval(() => { if (this.box.open && !document.hidden) this.refresh(); }, EVERY_MS);
  }

  // With an id, that part is chosen; a sink of several may be known by the name under which they are published.
  // A link may name one that is no longer there, which is said.
  async open(id = null, isLinked = false) {
    this.linked = isLinked ? id : null;
    if (!this.box.open) this.box.showModal();
    await this.refresh();
    if (this.buttons.has(id)) this.choose(id);
  }

  async refresh() {
    const told = await this.load("/api/pipeline", "PipelineState");
    if (told) this.paint(told);
    if (this.chosen) this.showRows(this.chosen);
  }

  /** @param {import("/wire.js").PipelineState} told */
  paint({ parts, note }) {
    this.parts = new Map(parts.map((one) => [one.id, one]));
    if (parts.length !== this.buttons.size || parts.some((one) => !this.buttons.has(one.id))) this.build(parts);
    for (const part of parts) paintPart(this.buttons.get(part.id), part);
    const bad = parts.filter((one) => one.state === "bad");
    const odd = parts.filter((one) => one.state === "odd");
    const missing = this.linked && !this.parts.has(this.linked);
    write(get("pipeline-said"), [missing ? `There is no part ${this.linked} in this pipeline.` : "", this.stale(), note,
      bad.length ? `Needs somebody: ${bad.map(called).join(", ")}.` : "",
      odd.length ? `Sets rows aside: ${odd.map(called).join(", ")}.` : "",
      parts.length ? (bad.length || odd.length || note ? "" : "All parts are well.") : "This page knows no pipeline.",
    ].filter(Boolean).join(" "));
    if (this.chosen) this.paintChosen();
    this.draw();
  }

  build(parts) {
    this.layers = layered(parts);
    this.buttons.clear();
    get("layers").replaceChildren(...this.layers.map((layer) => {
      const column = node("div", "layer");
      column.append(...layer.map((part) => {
        const button = node("button", "part");
        button.type = "button";
        button.dataset.kind = part.kind;
        button.append(node("span", "what", part.stream ? `${part.kind} · ${part.stream}` : part.kind), node("b", "", part.kind === "source" ? `${part.id}: ${part.name}` : part.stream ? part.name : part.id),
          node("span", "rates"), node("span", "aside"), node("span", "sign"), node("span", "said"));
        const from = [...new Set(part.inputs.map((one) => `${one.part}${one.port === "out" ? "" : ` (${worded(one.port)})`}`))];
        if (from.length) button.append(node("span", "unseen", `, from ${from.join(", ")}`));
        button.addEventListener("click", () => this.choose(part.id));
        this.buttons.set(part.id, button);
        return button;
      }));
      return column;
    }));
  }

  // Lines from each part to those that read from it; what is set aside or late goes along a dashed one.
  draw() {
    if (!this.box.open || !this.parts) return;
    const [lines, layers] = [get("lines"), get("layers")];
    const origin = layers.getBoundingClientRect();
    const [width, height] = [layers.scrollWidth, layers.scrollHeight];
    const places = new Map([...this.buttons].map(([id, button]) => [id, button.getBoundingClientRect()]));
    const down = NARROW.matches;
    const paths = [];
    for (const part of this.parts.values()) for (const { part: from, port } of part.inputs) {
      const [a, b] = [places.get(from), places.get(part.id)];
      if (!a || !b) continue;
      const [x, y, u, v] = down ? [a.left + a.width / 2, a.bottom, b.left + b.width / 2, b.top] : [a.right, a.top + a.height / 2, b.left, b.top + b.height / 2];
      const [x0, y0, x1, y1] = [x - origin.left, y - origin.top, u - origin.left, v - origin.top].map(Math.round);
      const bend = Math.max(Math.round(Math.abs(down ? y1 - y0 : x1 - x0) / 2), 12);
      const d = down ? `M${x0} ${y0}C${x0} ${y0 + bend} ${x1} ${y1 - bend} ${x1} ${y1}` : `M${x0} ${y0}C${x0 + bend} ${y0} ${x1 - bend} ${y1} ${x1} ${y1}`;
      const near = this.chosen === from || this.chosen === part.id;
      paths.push([d, `${port === "out" ? "" : "beside"}${near ? " near" : ""}`]);
    }
    const drawn = JSON.stringify([width, height, paths]);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    lines.setAttribute("viewBox", `0 0 ${width} ${height}`);
    lines.setAttribute("width", width);
    lines.setAttribute("height", height);
    lines.replaceChildren(...paths.map(([d, name]) => {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("d", d);
      path.setAttribute("class", name);
      return path;
    }));
  }

  // Arrow keys go along the rows and across them.
  key(event) {
    const keys = NARROW.matches ? ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"] : ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"];
    const way = keys.indexOf(event.key);
    const at = [...this.buttons].find(([, button]) => button === document.activeElement)?.[0];
    if (way < 0 || !at) return;
    event.preventDefault();
    const layer = this.layers.find((one) => one.some((part) => part.id === at)).map((part) => part.id);
    const beside = layer.indexOf(at);
    const reads = (part) => part.inputs.map((one) => one.part);
    const next = [
      () => reads(this.parts.get(at))[0],
      () => [...this.parts.values()].find((part) => reads(part).includes(at))?.id,
      () => layer[beside - 1], () => layer[beside + 1],
    ][way]();
    this.buttons.get(next)?.focus();
  }

  // --- the chosen part -----------------------------------------------------------------------------------------------
  async choose(id) {
    this.chosen = id;
    if (id) this.linked = null;
    this.shown = "";
    this.told(id ?? "");
    for (const [one, button] of this.buttons) button.setAttribute("aria-pressed", String(one === id));
    get("part").hidden = !id;
    get("part-components").replaceChildren();
    get("part-rows").replaceChildren();
    if (!id) return;
    this.paintChosen();
    this.draw();
    this.showRows(id);
    const told = await this.load(`/api/pipeline/part?id=${encodeURIComponent(id)}`, "PartDetails");
    if (told && this.chosen === id) get("part-components").replaceChildren(...told.components.flatMap(component));
    get("part").scrollIntoView({ block: "nearest" });
  }

  paintChosen() {
    const part = this.parts.get(this.chosen);
    if (!part) return;
    write(get("part-title"), called(part).replace(/^./, (letter) => letter.toUpperCase()));
    write(get("part-said"), [ratesOf(part).join(" · "), asideOf(part).join(" · "), part.rung ? `rang ${show(part.rung)} times` : "", part.said].filter(Boolean).join(". "));
    get("part-said").dataset.state = part.state;
  }

  async showRows(id) {
    const told = await this.load(`/api/pipeline/rows?id=${encodeURIComponent(id)}`, "PartRows");
    if (!told || this.chosen !== id) return;
    const shown = JSON.stringify(told);
    if (shown === this.shown) return; // nothing has come: who marks or reads in it is left in peace
    this.shown = shown;
    get("part-rows").replaceChildren(
      ...(told.set_aside.length ? [node("h3", "", "Set aside, by reason"), table([["Reason", "text"], ["Rows", "number"], ["Of the first one", "text"]], told.set_aside.map((one) => [worded(one.reason), one.rows, one.detail]))] : []),
      ...(Object.keys(told.noticed).length ? [node("h3", "", "Counted beside rows"), table([["What", "text"], ["How often", "number"]], Object.entries(told.noticed).map(([name, count]) => [worded(name), count]))] : []),
      node("h3", "", "Last rows"),
      ...(told.ports.length ? told.ports.flatMap((one) => portOf(one, told.ports.length > 1 || one.port !== "out")) :
        [node("p", "none", told.note || "None has come since you look; what comes now stands here.")]),
    );
  }
}

const portOf = ({ part, port, columns, rows }, named) => [
  ...(named ? [node("h4", "", port === "out" ? `from ${part}` : `${worded(port)}, from ${part}`)] : []),
  rows.length ? table(columns.map((one) => [one.name, one.kind]), rows) : node("p", "none", "There is none yet."),
];

function table(columns, rows) {
  const box = node("div", "rows");
  const [made, head, body] = [node("table"), node("thead"), node("tbody")];
  const line = node("tr");
  for (const [name, kind] of columns) { const cell = node("th", kind, name); cell.scope = "col"; line.append(cell); }
  head.append(line);
  for (const row of rows) {
    const of = node("tr");
    row.forEach((value, i) => of.append(node("td", columns[i][1], value === null ? "" : columns[i][1] === "time" ? when(value) : String(value))));
    body.append(of);
  }
  made.append(head, body);
  box.append(made);
  box.tabIndex = 0; // wide tables are scrolled by keyboard, too
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", columns.map(([name]) => name).join(", "));
  return box;
}

// What a part is made of: what it was set to, then the defaults, each with its sentence; and what it does.
function component({ name, what, settings }) {
  const own = settings.filter((one) => !one.is_default);
  const rest = settings.filter((one) => one.is_default);
  const docs = node("details");
  docs.append(node("summary", "", `What ${name} does, and its other settings`), node("p", "docs", plain(what)), ...listed(rest));
  return [node("h3", "", name), ...(own.length ? listed(own) : [node("p", "none", "All settings are as they are by default.")]), docs];
}

function listed(settings) {
  if (!settings.length) return [];
  const list = node("dl");
  for (const { name, value, what } of settings) list.append(node("dt", "", `${name}: ${value || "–"}`), node("dd", "", plain(what)));
  return [list];
}

function paintPart(button, part) {
  button.dataset.state = part.state;
  const [, , rates, aside, sign, said] = button.children;
  write(rates, ratesOf(part).join(" · "));
  write(aside, asideOf(part).join(" · "));
  write(sign, SIGNS[part.state]);
  write(said, part.said);
}

const count = (value) => value.toLocaleString(LANGUAGE);

const ratesOf = (part) => [
  ...(part.rows_per_s === null ? [] : [`${show(part.rows_per_s)} rows/s`, `${count(part.rows)} rows`]),
  ...(part.lag_s === null ? [] : [`lag ${part.lag_s < 1 ? `${Math.round(1000 * part.lag_s)} ms` : `${show(part.lag_s)} s`}`]),
];

const asideOf = (part) => [...(part.rejected ? [`${count(part.rejected)} rejected`] : []), ...(part.late ? [`${count(part.late)} late`] : [])];

const called = (part) => `${part.kind} ${part.stream ? `${part.name} of ${part.stream}` : part.id}`;

const plain = (docs) => docs.replaceAll("``", "`");
