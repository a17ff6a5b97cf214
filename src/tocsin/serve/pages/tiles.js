// The machines as tiles, worst first: one tab stop, arrow keys from one to the next. However many there are, only those in
// sight (and the one that the tab key reaches) are in the document.
import { arrange, node, show } from "/chart.js";
import { rank, shapeOf, standOf } from "/wire.js";

const SPARK_POINTS = 60;
const SPARK_WIDTH = 96; // pixels
const SPARK_HEIGHT = 34;
const SHAPES = { silent: "◌", running: "▸" };
const GAP = 8;
const HEIGHTS = [104, 122, 140]; // pixels; with a line of what pulls machines down, and with two, where lives are told, too
const WIDTH_MIN = 250;
const BEYOND = 2; // rows above and below the part in sight

export class Tiles {
  // `choose` is called with the name of a machine that a person has chosen, `moved` when other tiles have come into sight.
  constructor(host, { choose, moved }) {
    Object.assign(this, { host, choose, moved });
    this.byName = new Map();
    this.byId = new Map();
    this.sorted = [];
    this.shown = []; // those of them that are wanted
    this.elements = new Map(); // by name, of those in the document
    this.current = null; // the name of the one that the tab key reaches
    this.chosen = null;
    this.height = HEIGHTS[0];
    this.columns = 1;
    this.order = new Intl.Collator("en", { numeric: true });
    this.changed = true;
    this.unsorted = false;
    this.room = host.appendChild(node("div", "room"));
    this.room.setAttribute("role", "presentation");
    host.addEventListener("keydown", (event) => this.onKey(event));
    host.addEventListener("focusin", (event) => this.reach(this.tileAt(event)?.name));
    host.addEventListener("click", (event) => { const tile = this.tileAt(event); if (tile) this.choose(tile.name); });
    let due = 0;
    host.addEventListener("scroll", () => { due ||= requestAnimationFrame(() => { due = 0; this.render(); }); }, { passive: true });
    new ResizeObserver(() => { this.changed = true; }).observe(host);
  }

  clear() {
    this.byName.clear();
    this.byId.clear();
    this.sorted = [];
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
    const at = this.reached + steps[event.key];
    const next = Math.max(0, Math.min(this.shown.length - 1, at));
    this.reach(this.shown[next].name);
    const top = Math.floor(next / this.columns) * (this.height + GAP);
    if (top < this.host.scrollTop) this.host.scrollTop = top;
    if (top + this.height > this.host.scrollTop + this.host.clientHeight) this.host.scrollTop = top + this.height - this.host.clientHeight;
    this.render();
    this.elements.get(this.current).root.focus({ preventScroll: true });
  }

  reach(name) {
    if (name === undefined || name === this.current) return;
    for (const old of [this.current, name]) {
      const root = this.elements.get(old)?.root;
      if (root) root.tabIndex = old === name ? 0 : -1;
    }
    this.current = name;
  }

  /** Returns where among those shown the one is that the tab key reaches; -1 if it is not there. */
  get reached() { return this.shown.findIndex((tile) => tile.name === this.current); }

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
      if (fits && saidOf(tile, text) && this.standsIn(tile.name, stand)) this.shown.push(tile);
    }
    if (this.reached < 0) { this.current = null; this.reach(this.shown[0]?.name); }
    const width = this.room.clientWidth;
    this.columns = Math.max(1, Math.floor((width + GAP) / (WIDTH_MIN + GAP)));
    this.width = (width + GAP) / this.columns - GAP;
    const rows = Math.ceil(this.shown.length / this.columns);
    this.room.style.setProperty("--lines", this.height === HEIGHTS[2] ? 2 : 1);
    this.room.style.height = `${Math.max(0, rows * (this.height + GAP) - GAP)}px`;
    arrange(this.room, this.render().map((i) => this.elements.get(this.shown[i].name).root));
    return counts;
  }

  // Puts the tiles in sight into the document; returns them. The elements of those that have left are used again, where they
  // stand: to change texts costs a browser much less than to take elements out and put others in. Nothing is written that
  // stands there already.
  render() {
    const row = this.height + GAP;
    const first = Math.max(0, Math.floor(this.host.scrollTop / row) - BEYOND) * this.columns;
    const last = (Math.ceil((this.host.scrollTop + this.host.clientHeight) / row) + BEYOND) * this.columns;
    const wanted = [];
    const at = this.reached;
    if (at >= 0 && at < first) wanted.push(at);
    for (let i = first; i < Math.min(last, this.shown.length); i++) wanted.push(i);
    if (at >= last) wanted.push(at);
    const keep = new Set(wanted.map((i) => this.shown[i].name));
    const free = [];
    for (const [name, element] of this.elements) if (!keep.has(name)) { free.push(element); this.elements.delete(name); }
    const held = this.room.contains(document.activeElement);
    const changed = free.length > 0 || wanted.length > this.elements.size;
    for (const i of wanted) {
      const tile = this.shown[i];
      let element = this.elements.get(tile.name);
      if (!element) {
        element = free.pop() ?? make(this.room);
        this.elements.set(tile.name, element);
        element.root.dataset.name = tile.name;
        tile.dirty = true;
      }
      this.place(element, i, row);
      if (tile.dirty) this.paintTile(tile, element);
    }
    const current = this.elements.get(this.current)?.root;
    if (held && current && document.activeElement !== current) current.focus({ preventScroll: true }); // the tile has left the list
    for (const { root } of free) root.remove();
    if (changed) this.moved();
    return wanted;
  }

  place(element, i, row) {
    const { root } = element;
    const tile = this.shown[i];
    put(element, "left", `${(i % this.columns) * (this.width + GAP)}px`, (value) => { root.style.left = value; });
    put(element, "top", `${Math.floor(i / this.columns) * row}px`, (value) => { root.style.top = value; });
    put(element, "width", `${this.width}px`, (value) => { root.style.width = value; });
    put(element, "height", `${this.height}px`, (value) => { root.style.height = value; });
    put(element, "place", i + 1, (value) => { root.ariaPosInSet = value; });
    put(element, "places", this.shown.length, (value) => { root.ariaSetSize = value; });
    const index = tile.name === this.current ? 0 : -1;
    if (root.tabIndex !== index) root.tabIndex = index;
  }

  /** Returns the ids of the machines in the document. */
  get inSight() { return [...this.elements.keys()].map((name) => this.byName.get(name)?.id).filter((id) => id !== undefined); }

  paintTile(tile, element) {
    tile.dirty = false;
    const { root, label, pill, health, well, values, spark } = element;
    const { glance } = tile;
    say(label, tile.label || tile.name, tile.name);
    mark(root, { status: tile.status, severity: tile.severity, active: tile.active, silent: tile.silent });
    put(element, "selected", String(tile.name === this.chosen), (value) => { root.setAttribute("aria-selected", value); });
    paintPill(pill, tile);
    say(health, known(glance?.health) ? `health ${glance.health}` : "");
    const pulled = glance?.pulled_by.slice(0, 3).map((one) => `${one.signal} ${one.percent} %`).join(", ");
    const told = [standOf(tile), pulled ? `pulled down by ${pulled}` : "", glance?.life ? lifeOf(glance.life) : ""].filter(Boolean).join(" · ");
    say(well, told, told);
    const shown = glance?.values ?? [];
    while (values.children.length < shown.length) { const row = node("span", "value"); row.append(node("span"), node("b")); values.append(row); }
    [...values.children].forEach((row, i) => {
      const [name, value] = row.children;
      const one = shown[i];
      if (row.hidden === Boolean(one)) row.hidden = !one;
      say(name, one?.label ?? "", one ? `${one.signal} (${shown.length} of ${glance.signals} signals)` : "");
      say(value, one ? show(one.value) : "");
    });
    put(element, "spark", glance ? sparkOf(glance.recent) : "", (value) => { spark.setAttribute("d", value); });
  }
}

// Writes a text, or a tooltip, where it is not there already.
function say(element, text, title) {
  if (element.textContent !== text) { if (element.firstChild) element.firstChild.data = text; else element.textContent = text; }
  if (title !== undefined && element.title !== title) element.title = title;
}

function mark(element, data) {
  for (const [name, value] of Object.entries(data)) if (element.dataset[name] !== String(value)) element.dataset[name] = value;
}

// Does what sets a property of a tile's element, if it does not have this value already.
function put(element, name, value, set) {
  if (element.has[name] === value) return;
  element.has[name] = value;
  set(value);
}

function make(room) {
  const root = node("div", "tile");
  root.setAttribute("role", "option");
  root.tabIndex = -1; // written down: without it a click gives no focus, and arrow keys nothing to start from
  const top = node("span", "top");
  const label = node("span", "name");
  const pill = node("span", "pill");
  const body = node("span", "body");
  const values = node("span", "values");
  const [drawing, spark] = ["svg", "path"].map((name) => document.createElementNS("http://www.w3.org/2000/svg", name));
  drawing.setAttribute("aria-hidden", "true");
  drawing.setAttribute("viewBox", `0 0 ${SPARK_WIDTH} ${SPARK_HEIGHT}`);
  drawing.append(spark); // no canvas: each would be a layer of its own
  const health = node("span", "health");
  const well = node("span", "well");
  const drawn = node("span", "drawn");
  top.append(label, pill);
  drawn.append(drawing, health);
  body.append(values, drawn);
  root.append(top, body, well);
  room.append(root);
  return { root, label, pill, health, well, values, spark, has: {} };
}

// Whether a machine goes by a word, in its name or where it stands.
const saidOf = (tile, text) => !text || [tile.name, tile.label, tile.area, tile.line].join(" ").toLowerCase().includes(text);

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
  if (pill.hidden) pill.hidden = false;
  mark(pill, { status: tile.status, severity: tile.severity, active: tile.active });
  const word = tile.status === "alarm" ? tile.severity + (tile.active ? "" : " (over)") : tile.status === "running" && tile.state ? tile.state : tile.status;
  say(pill, `${tile.status === "alarm" ? shapeOf(tile.severity) : SHAPES[tile.status]} ${word}`);
}

// The newest readings as the outline of a line; broken where there is none.
function sparkOf(values) {
  const known = values.filter((v) => v !== null);
  if (known.length < 2) return "";
  const low = Math.min(...known);
  const span = Math.max(...known) - low || 1;
  const at = (v, i) => `${((i / (SPARK_POINTS - 1)) * (SPARK_WIDTH - 2) + 1).toFixed(1)} ${(SPARK_HEIGHT - 3 - ((v - low) / span) * (SPARK_HEIGHT - 6)).toFixed(1)}`;
  return values.map((v, i) => (v === null ? "" : `${i && values[i - 1] !== null ? "L" : "M"}${at(v, i)}`)).join("");
}
