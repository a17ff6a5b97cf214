// The machines as tiles, worst first: one tab stop, arrow keys from one to the next. However many there are, only those in
// sight (and the one that the tab key reaches) are in the document.
import { node, show } from "/chart.js";
import { rank, shapeOf, standOf } from "/wire.js";

const SPARK_POINTS = 60;
const SHAPES = { silent: "◌", running: "▸" };
const GAP = 8;
const HEIGHTS = [104, 122, 140]; // pixels; with a line of what pulls machines down, and with two, where lives are told, too
const WIDTH_MIN = 250;
const BEYOND = 4; // rows above and below the part in sight

export class Tiles {
  // `choose` is called with the name of a machine that a person has chosen, `moved` when other tiles have come into sight.
  constructor(host, { colours, choose, moved }) {
    Object.assign(this, { host, colours, choose, moved });
    this.byName = new Map();
    this.byId = new Map();
    this.sorted = [];
    this.shown = []; // those of them that are wanted
    this.elements = new Map(); // by name, of those in the document
    this.current = null; // the one that the tab key reaches
    this.chosen = null;
    this.height = HEIGHTS[0];
    this.columns = 1;
    this.order = new Intl.Collator("en", { numeric: true });
    this.changed = true;
    this.unsorted = false;
    this.room = host.appendChild(node("div", "room"));
    this.room.setAttribute("role", "presentation");
    host.addEventListener("keydown", (event) => this.onKey(event));
    host.addEventListener("focusin", (event) => this.reach(this.tileAt(event)));
    host.addEventListener("click", (event) => { const tile = this.tileAt(event); if (tile) this.choose(tile.name); });
    let due = 0;
    host.addEventListener("scroll", () => { due ||= requestAnimationFrame(() => { due = 0; this.render(); }); }, { passive: true });
    new ResizeObserver(() => { this.changed = true; }).observe(host);
  }

  clear() {
    this.byName.clear();
    this.byId.clear();
    this.sorted = [];
    this.current = null;
    this.changed = true;
  }

  tileAt(event) { return this.byName.get(event.target.closest(".tile")?.dataset.name); }

  /** @param {import("/wire.js").Tile} machine */
  update(machine) {
    let tile = this.byName.get(machine.name);
    if (!tile) {
      tile = { glance: null, place: 0, dirty: true };
      this.byName.set(machine.name, tile);
      this.byId.set(machine.id, tile);
      this.sorted.push(tile);
      this.unnamed = true;
    }
    Object.assign(tile, machine, { dirty: true });
    if (machine.area) this.height = Math.max(this.height, HEIGHTS[1]);
    this.unsorted = this.changed = true;
  }

  /** @param {import("/wire.js").Glance[]} glances */
  look(glances) {
    for (const glance of glances) {
      const tile = this.byId.get(glance.id);
      if (!tile) continue;
      Object.assign(tile, { glance, dirty: true });
      this.height = Math.max(this.height, HEIGHTS[glance.life ? 2 : glance.pulled_by.length ? 1 : 0]);
    }
    this.changed = true;
  }

  // Worst first: active alarms, those that are over but open, silent machines, the others; by name among equals.
  sort() {
    if (this.unnamed) {
      this.sorted.sort((a, b) => this.order.compare(a.name, b.name)).forEach((tile, i) => { tile.place = i; });
      this.unnamed = false;
      this.unsorted = true;
    }
    if (!this.unsorted) return;
    for (const tile of this.sorted) tile.urgency = tile.status === "alarm" ? rank(tile.severity) + (tile.active ? 20 : 10) : tile.silent ? 1 : 0;
    this.sorted.sort((a, b) => b.urgency - a.urgency || a.place - b.place);
    this.unsorted = false;
  }

  // Without a choice by a person: the first machine with an open alarm, worst first, else the first by name.
  preferred(chosen) {
    this.sort();
    const worst = this.sorted[0];
    if (!worst) return undefined;
    const better = !chosen || (worst.status === "alarm" && this.byName.get(chosen)?.status !== "alarm");
    if (!better) return undefined;
    return (worst.status === "alarm" ? worst : this.sorted.find((tile) => tile.place === 0)).name;
  }

  // The machine that an alarm's key belongs to: itself, or what stands before a slash.
  ownerOf(key) {
    while (!this.byName.has(key) && key.includes("/")) key = key.slice(0, key.lastIndexOf("/"));
    return this.byName.has(key) ? key : null;
  }

  onKey(event) {
    if (event.key === "Enter" || event.key === " ") {
      const tile = this.tileAt(event);
      if (tile) { event.preventDefault(); this.choose(tile.name); }
      return;
    }
    const screen = Math.max(1, Math.floor(this.host.clientHeight / (this.height + GAP))) * this.columns;
    const steps = { ArrowDown: this.columns, ArrowRight: 1, ArrowUp: -this.columns, ArrowLeft: -1, PageDown: screen, PageUp: -screen, Home: -Infinity, End: Infinity };
    if (!Object.hasOwn(steps, event.key) || !this.shown.length) return;
    event.preventDefault();
    const at = this.shown.indexOf(this.current) + steps[event.key];
    const next = Math.max(0, Math.min(this.shown.length - 1, at));
    this.reach(this.shown[next]);
    const top = Math.floor(next / this.columns) * (this.height + GAP);
    if (top < this.host.scrollTop) this.host.scrollTop = top;
    if (top + this.height > this.host.scrollTop + this.host.clientHeight) this.host.scrollTop = top + this.height - this.host.clientHeight;
    this.render();
    this.elements.get(this.current.name).root.focus({ preventScroll: true });
  }

  reach(tile) {
    if (!tile || tile === this.current) return;
    for (const old of [this.current, tile]) {
      const root = old && this.elements.get(old.name)?.root;
      if (root) root.tabIndex = old === tile ? 0 : -1;
    }
    this.current = tile;
  }

  repaint() {
    for (const tile of this.sorted) tile.dirty = true;
    this.changed = true;
  }

  /** Returns where machines stand: areas, each followed by its lines. */
  get areas() {
    const areas = new Map();
    for (const { area, line } of this.sorted) if (area) { if (!areas.has(area)) areas.set(area, new Set()); if (line) areas.get(area).add(`${area} · ${line}`); }
    return [...areas].sort((a, b) => this.order.compare(a[0], b[0])).flatMap(([area, lines]) => [area, ...[...lines].sort(this.order.compare)]);
  }

  /** Returns what people call the machine that a key belongs to; the key where they call it nothing else. */
  called(key) { return this.byName.get(this.ownerOf(key))?.label || key; }

  /** Whether a machine (or what an alarm is of) stands in an area or line; in all where that is empty. */
  standsIn(key, stand) {
    const tile = stand ? this.byName.get(this.ownerOf(key)) : null;
    return !stand || Boolean(tile && (tile.area === stand || standOf(tile) === stand));
  }

  // Paints what has changed; returns how many machines are in which status.
  paint(wanted, text, stand) {
    this.sort();
    const counts = { all: this.byName.size, alarm: 0, silent: 0 };
    this.shown = [];
    for (const tile of this.sorted) {
      if (tile.status === "alarm") counts.alarm++;
      if (tile.silent) counts.silent++;
      const fits = wanted === "all" || (wanted === "silent" ? tile.silent : tile.status === wanted);
      const said = [tile.name, tile.label, tile.area, tile.line].join(" ").toLowerCase();
      if (fits && said.includes(text) && this.standsIn(tile.name, stand)) this.shown.push(tile);
    }
    if (!this.shown.includes(this.current)) { this.current = null; this.reach(this.shown[0]); }
    const width = this.room.clientWidth;
    this.columns = Math.max(1, Math.floor((width + GAP) / (WIDTH_MIN + GAP)));
    this.width = (width + GAP) / this.columns - GAP;
    const rows = Math.ceil(this.shown.length / this.columns);
    this.room.style.height = `${Math.max(0, rows * (this.height + GAP) - GAP)}px`;
    this.render();
    return counts;
  }

  // Puts the tiles in sight into the document, in their order, and takes the others out.
  render() {
    const row = this.height + GAP;
    const first = Math.max(0, Math.floor(this.host.scrollTop / row) - BEYOND) * this.columns;
    const last = (Math.ceil((this.host.scrollTop + this.host.clientHeight) / row) + BEYOND) * this.columns;
    const wanted = [];
    const at = this.shown.indexOf(this.current);
    if (at >= 0 && at < first) wanted.push(at);
    for (let i = first; i < Math.min(last, this.shown.length); i++) wanted.push(i);
    if (at >= last) wanted.push(at);
    const keep = new Set(wanted.map((i) => this.shown[i].name));
    let changed = false;
    for (const [name, element] of this.elements) if (!keep.has(name)) { element.root.remove(); this.elements.delete(name); changed = true; }
    wanted.forEach((i, position) => {
      const tile = this.shown[i];
      let element = this.elements.get(tile.name);
      if (!element) { this.elements.set(tile.name, element = make(tile.name)); tile.dirty = changed = true; }
      const { root } = element;
      if (this.room.children[position] !== root) this.room.insertBefore(root, this.room.children[position] ?? null);
      root.style.transform = `translate(${(i % this.columns) * (this.width + GAP)}px, ${Math.floor(i / this.columns) * row}px)`;
      root.style.width = `${this.width}px`;
      root.style.height = `${this.height}px`;
      root.tabIndex = tile === this.current ? 0 : -1;
      root.ariaPosInSet = i + 1;
      root.ariaSetSize = this.shown.length;
      if (tile.dirty) this.paintTile(tile, element);
    });
    if (changed) this.moved();
  }

  /** Returns the ids of the machines in the document. */
  get inSight() { return [...this.elements.keys()].map((name) => this.byName.get(name)?.id).filter((id) => id !== undefined); }

  paintTile(tile, { root, label, pill, health, well, values, canvas }) {
    tile.dirty = false;
    label.textContent = tile.label || tile.name;
    label.title = tile.name;
    well.textContent = standOf(tile);
    Object.assign(root.dataset, { status: tile.status, severity: tile.severity, active: tile.active, silent: tile.silent });
    root.setAttribute("aria-selected", String(tile.name === this.chosen));
    paintPill(pill, tile);
    const { glance } = tile;
    if (!glance) return;
    health.textContent = known(glance.health) ? `health ${glance.health}` : "";
    well.textContent = [
      standOf(tile),
      glance.pulled_by.length ? `pulled down by ${glance.pulled_by.slice(0, 3).map((one) => `${one.signal} ${one.percent} %`).join(", ")}` : "",
      glance.life ? lifeOf(glance.life) : "",
    ].filter(Boolean).join(" · ");
    well.title = well.textContent;
    while (values.children.length < glance.values.length) { const row = node("span", "value"); row.append(node("span"), node("b")); values.append(row); }
    glance.values.forEach((one, i) => {
      const [name, value] = values.children[i].children;
      name.textContent = one.label;
      name.title = `${one.signal} (${glance.values.length} of ${glance.signals} signals)`;
      value.textContent = show(one.value);
    });
    drawSpark(canvas, glance.recent, this.colours());
  }
}

function make(name) {
  const root = node("div", "tile");
  root.dataset.name = name;
  root.setAttribute("role", "option");
  const top = node("span", "top");
  const label = node("span", "name");
  const pill = node("span", "pill");
  const body = node("span", "body");
  const values = node("span", "values");
  const canvas = node("canvas");
  canvas.setAttribute("aria-hidden", "true");
  const health = node("span", "health");
  const well = node("span", "well");
  const drawn = node("span", "drawn");
  top.append(label, pill);
  drawn.append(canvas, health);
  body.append(values, drawn);
  root.append(top, body, well);
  return { root, label, pill, health, well, values, canvas };
}

const known = (value) => value !== null && value !== undefined;

// How long a machine has, as a range, in the greatest unit that leaves the upper bound above 1.
function lifeOf(life) {
  const units = [["days", 86400], ["hours", 3600], ["minutes", 60], ["seconds", 1]];
  const [unit, size] = known(life.reading_s) ?
    units.find((one) => life.upper * life.reading_s >= one[1]) ?? units.at(-1) : ["readings", 1];
  const per = known(life.reading_s) ? life.reading_s / size : 1;
  return `${show(Math.max(0, life.lower * per))} to ${show(life.upper * per)} ${unit} left (${Math.round(100 * life.confidence)} % sure)`;
}

// What a machine is doing, in a sign, a word and a colour.
export function paintPill(pill, tile) {
  pill.hidden = false;
  Object.assign(pill.dataset, { status: tile.status, severity: tile.severity, active: tile.active });
  const word = tile.status === "alarm" ? tile.severity + (tile.active ? "" : " (over)") : tile.status === "running" && tile.state ? tile.state : tile.status;
  pill.textContent = `${tile.status === "alarm" ? shapeOf(tile.severity) : SHAPES[tile.status]} ${word}`;
}

function drawSpark(canvas, values, colours) {
  const [width, height, scale] = [96, 34, window.devicePixelRatio || 1];
  if (canvas.width !== width * scale) { canvas.width = width * scale; canvas.height = height * scale; }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  const known = values.filter((v) => v !== null);
  if (known.length < 2) return;
  const low = Math.min(...known);
  const span = Math.max(...known) - low || 1;
  pen.strokeStyle = colours.value;
  pen.lineWidth = 1.4;
  pen.beginPath();
  let down = false;
  values.forEach((v, i) => {
    if (v === null) { down = false; return; }
    const [x, y] = [(i / (SPARK_POINTS - 1)) * (width - 2) + 1, height - 3 - ((v - low) / span) * (height - 6)];
    if (down) pen.lineTo(x, y); else pen.moveTo(x, y);
    down = true;
  });
  pen.stroke();
}
