// The machines as tiles: one tab stop, arrow keys from one to the next; only tiles in sight are painted.
import { node, show } from "/chart.js";
import { rank, shapeOf } from "/wire.js";

const SPARK_POINTS = 60;
const SHAPES = { silent: "◌", running: "▸" };

export class Tiles {
  constructor(host, colours, choose) {
    this.host = host;
    this.colours = colours;
    this.choose = choose;
    this.byName = new Map();
    this.sorted = [];
    this.current = null; // the one that the tab key reaches
    this.chosen = null;
    this.order = new Intl.Collator("en", { numeric: true });
    this.owners = new WeakMap();
    this.changed = true;
    this.seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const tile = this.byName.get(this.owners.get(entry.target));
        if (tile) tile.visible = entry.isIntersecting;
      }
      this.changed = true;
    }, { root: null, rootMargin: "200px" });
    host.addEventListener("keydown", (event) => this.onKey(event));
    host.addEventListener("focusin", (event) => this.reach(this.byName.get(this.owners.get(event.target.closest(".tile")))));
  }

  clear() {
    for (const tile of this.byName.values()) { this.seen.unobserve(tile.root); tile.root.remove(); }
    this.sorted.length = 0;
    this.byName.clear();
    this.current = null;
  }

  /** @param {import("/wire.js").Tile} machine */
  update(machine) {
    const tile = this.byName.get(machine.name) ?? this.make(machine.name);
    Object.assign(tile, { status: machine.status, severity: machine.severity, active: machine.active, silent: machine.silent, state: machine.state, healthy: machine.health, pulledBy: machine.pulled_by ?? [], life: machine.life ?? null, dirty: true });
    this.changed = true;
  }

  make(name) {
    const root = node("button", "tile");
    root.type = "button";
    root.tabIndex = -1;
    const top = node("span", "top");
    const label = node("span", "name", name);
    label.title = name;
    const pill = node("span", "pill");
    const body = node("span", "body");
    const values = node("span", "values");
    const canvas = node("canvas");
    canvas.setAttribute("aria-hidden", "true");
    const health = node("span", "health");
    const well = node("span", "well");
    top.append(label, health, pill);
    body.append(values, canvas);
    root.append(top, body, well);
    root.addEventListener("click", () => this.choose(name));
    this.seen.observe(root);
    this.owners.set(root, name);
    const tile = { name, visible: false, root, pill, health, well, values, canvas, status: "running", severity: "", active: false, silent: false, state: "", healthy: null, pulledBy: [], life: null, signals: new Map(), dirty: true };
    this.byName.set(name, tile);
    let [low, high] = [0, this.sorted.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.order.compare(this.sorted[middle].name, name) < 0) low = middle + 1; else high = middle;
    }
    this.host.insertBefore(root, this.sorted[low]?.root ?? null);
    this.sorted.splice(low, 0, tile);
    return tile;
  }

  spark(series, values) {
    const tile = this.byName.get(series.machine);
    if (!tile) return;
    let own = tile.signals.get(series.signal);
    if (!own) tile.signals.set(series.signal, own = { id: series.id, recent: [] });
    if (own.id !== series.id) return; // the same signal in a later stream
    for (const value of values) own.recent.push(value);
    if (own.recent.length > SPARK_POINTS) own.recent.splice(0, own.recent.length - SPARK_POINTS);
    tile.dirty = true;
  }

  // Without a choice by a person: the first machine with an open alarm, worst first, else the first.
  preferred(chosen) {
    const alarmed = this.sorted.filter((tile) => tile.status === "alarm")
      .sort((a, b) => b.active - a.active || rank(b.severity) - rank(a.severity));
    const wanted = alarmed[0]?.name ?? this.sorted[0]?.name;
    const better = !chosen || (alarmed.length && this.byName.get(chosen)?.status !== "alarm");
    return better ? wanted : undefined;
  }

  // The machine that an alarm's key belongs to: itself, or what stands before a slash.
  ownerOf(key) {
    while (!this.byName.has(key) && key.includes("/")) key = key.slice(0, key.lastIndexOf("/"));
    return this.byName.has(key) ? key : null;
  }

  onKey(event) {
    const steps = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    if (!Object.hasOwn(steps, event.key)) return;
    const shown = this.sorted.filter((tile) => !tile.root.hidden);
    if (!shown.length) return;
    const at = shown.indexOf(this.current) + steps[event.key];
    const next = shown[Math.max(0, Math.min(shown.length - 1, at))];
    event.preventDefault();
    this.reach(next);
    next.root.focus();
  }

  reach(tile) {
    if (!tile || tile === this.current) return;
    if (this.current) this.current.root.tabIndex = -1;
    this.current = tile;
    tile.root.tabIndex = 0;
  }

  repaint() {
    for (const tile of this.byName.values()) tile.dirty = true;
    this.changed = true;
  }

  // Paints what has changed; returns how many machines are in which status.
  paint(wanted, text) {
    const counts = { all: this.byName.size, alarm: 0, silent: 0 };
    let firstShown = null;
    for (const tile of this.sorted) {
      if (tile.status === "alarm") counts.alarm++;
      if (tile.silent) counts.silent++;
      const fits = wanted === "all" || (wanted === "silent" ? tile.silent : tile.status === wanted);
      const hidden = !fits || !tile.name.toLowerCase().includes(text);
      if (tile.root.hidden !== hidden) tile.root.hidden = hidden;
      if (!hidden) firstShown ??= tile;
      if (tile.dirty && tile.visible) this.paintTile(tile);
    }
    if (!this.current || this.current.root.hidden) this.reach(firstShown);
    return counts;
  }

  paintTile(tile) {
    tile.dirty = false;
    Object.assign(tile.root.dataset, { status: tile.status, severity: tile.severity, active: tile.active, silent: tile.silent });
    tile.root.setAttribute("aria-pressed", String(tile.name === this.chosen));
    paintPill(tile.pill, tile);
    tile.health.textContent = known(tile.healthy) ? `health ${tile.healthy}` : "";
    tile.well.textContent = [
      tile.pulledBy.length ? `pulled down by ${tile.pulledBy.slice(0, 3).map((one) => `${one.signal} ${one.percent} %`).join(", ")}` : "",
      tile.life ? lifeOf(tile.life) : "",
    ].filter(Boolean).join(" · ");
    const signals = [...tile.signals.entries()].slice(0, 3);
    while (tile.values.children.length < signals.length) { const row = node("span", "value"); row.append(node("span"), node("b")); tile.values.append(row); }
    const common = commonStart([...tile.signals.keys()]);
    signals.forEach(([signal, own], i) => {
      const [name, value] = tile.values.children[i].children;
      name.textContent = signal.slice(common);
      name.title = signal;
      value.textContent = show(own.recent.findLast((v) => v !== null));
    });
    if (signals.length) drawSpark(tile.canvas, signals[0][1].recent, this.colours());
  }
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

// How many characters all names begin with, up to a mark that ends a word: what is left tells them apart.
function commonStart(names) {
  if (names.length < 2) return 0;
  let end = 0;
  while (end < names[0].length && names.every((name) => name[end] === names[0][end])) end++;
  while (end > 0 && /[\p{L}\p{N}]/u.test(names[0][end - 1])) end--;
  return end < 4 ? 0 : end;
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
