// Machines by time, or the signals of one machine, as a heat map: the worst on top, a page of them; who draws over a part of
// it zooms into that time.
import { node, when } from "/chart.js";
import { clock } from "/clock.js";
import { SEVERITIES } from "/words.js";

const HOUR_MS = 3.6e6;
const CELLS = 60;
const ROW = 16; // pixels
const REFRESH_MS = 15000;
const MORE_MS = 2000; // not all has been read yet
const TICK_PX = 90; // a tick needs so much room
const MOVED_MIN = 5; // pixels; less is a click
const WORDS = ["calm", ...SEVERITIES.map((one) => one.name)];
const get = (id) => document.getElementById(id);

export class Lanes {
  // `load` gets lanes from the server, `choose` shows what a lane is of, `zoom` a range of time; `ends` says which time is
  // shown, `machine` which machine, `called` what people call a lane; `turned` hears that a person wants other lanes.
  constructor({ load, choose, zoom, ends, machine, called, turned }) {
    Object.assign(this, { load, choose, zoom, ends, machine, called });
    this.ofSignals = false; // of the chosen machine; else of machines
    for (const [id, ofSignals] of [["lanes-machines", false], ["lanes-signals", true]]) get(id).addEventListener("click", () => { this.take(ofSignals); turned(); });
    this.paintKey();
    this.canvas = get("heat-map");
    this.host = get("heat");
    this.told = null; // what the server has told last
    this.first = 0;
    this.at = null; // the cell that the keyboard has reached: lane and cell
    this.marked = null; // first and last cell of what is being drawn over
    this.asked = 0;
    get("lanes").addEventListener("toggle", () => this.refresh());
    get("lanes-before").addEventListener("click", () => this.turn(-1));
    get("lanes-after").addEventListener("click", () => this.turn(1));
    this.host.addEventListener("keydown", (event) => this.onKey(event));
    this.host.addEventListener("focus", () => { if (this.told?.lanes.length && !this.at) this.reach(0, this.cells - 1); });
    this.hearPointer();
    new ResizeObserver(() => this.paint()).observe(this.canvas);
    setInterval(() => { const ends = this.ends(); if (!ends || ends[1] > Date.now() - REFRESH_MS) this.refresh(); }, REFRESH_MS);
  }

  /** Shows signals of the chosen machine, or machines. */
  take(ofSignals) {
    if (ofSignals === this.ofSignals) return;
    Object.assign(this, { ofSignals, first: 0, at: null, marked: null });
    this.refresh();
  }

  get cells() { return this.told.lanes[0]?.cells.length ?? CELLS; }

  get count() { return window.innerHeight > 1100 ? 25 : 10; }

  turn(sign) {
    this.first = Math.max(0, this.first + sign * this.count);
    this.refresh();
  }

  async refresh() {
    if (document.hidden || !get("lanes").open || this.marked) return;
    const mine = ++this.asked;
    const [from, to] = (this.ends() ?? [Date.now() - HOUR_MS, Date.now()]).map(Math.round);
    const whose = this.ofSignals && this.machine() ? `&machine=${encodeURIComponent(this.machine())}` : `&first=${this.first}&count=${this.count}`;
    const told = await this.load(`from=${from}&to=${to}&cells=${CELLS}${whose}`);
    if (!told || mine !== this.asked || this.marked) return;
    if (told.first && told.first >= told.machines) { this.first = 0; this.refresh(); return; }
    this.told = told;
    if (this.at && (this.at.lane >= told.lanes.length || this.at.cell >= this.cells)) this.at = null;
    this.describe();
    this.paint();
    if (told.note) { clearTimeout(this.more); this.more = setTimeout(() => this.refresh(), MORE_MS); }
  }

  describe() {
    const { lanes, first, machines, note } = this.told;
    get("lanes").hidden = !machines && !this.ofSignals;
    get("lanes-title").textContent = this.ofSignals ? "Signals by time, worst first" : "Machines by time, worst first";
    get("heat-what").textContent = this.ofSignals ? "Signal" : "Machine";
    this.host.setAttribute("aria-label", `Heat map of ${this.ofSignals ? "the signals of the chosen machine" : "machines"} by time: arrow keys go from cell to cell, with Shift they mark a time, Enter zooms into it or shows ${this.ofSignals ? "the signal" : "the machine"}`);
    for (const [id, pressed] of [["lanes-machines", !this.ofSignals], ["lanes-signals", this.ofSignals]]) get(id).setAttribute("aria-pressed", String(pressed));
    get("lanes-span").textContent = `${when(this.begin(0))} to ${when(this.begin(this.cells))}`;
    get("lanes-place").textContent = `${first + 1} to ${first + lanes.length} of ${machines}`;
    get("lanes-pages").hidden = machines <= lanes.length;
    get("lanes-before").disabled = first === 0;
    get("lanes-after").disabled = first + lanes.length >= machines;
    const said = note || (lanes.length || !this.ofSignals ? "" : "No signal of this machine was judged or has rung in this time.");
    get("lanes-note").textContent = said;
    get("lanes-note").hidden = !said;
    get("heat-names").replaceChildren(...lanes.map((lane) => { const name = node("span", "", this.called(lane)); name.title = lane.signal || lane.machine; return name; }));
    get("heat-table").replaceChildren(...lanes.map((lane) => {
      const worst = Math.max(...lane.cells);
      const bad = lane.cells.map((cell, i) => [cell, i]).filter(([cell]) => cell > 0);
      const row = node("tr");
      const name = node("th", "", this.called(lane));
      name.scope = "row";
      row.append(name, node("td", "", WORDS[worst]), node("td", "", bad.length ? when(this.begin(bad[0][1])) : "–"),
        node("td", "", bad.length ? when(this.begin(bad.at(-1)[1] + 1)) : "–"), node("td", "", `${bad.length} of ${this.cells}`));
      return row;
    }));
  }

  /** Returns the moment at which a cell begins. */
  begin(cell) { return this.told.begin_ms + cell * this.told.cell_ms; }

  paint() {
    if (!this.told) return;
    const { lanes } = this.told;
    const [width, scale] = [this.canvas.clientWidth, window.devicePixelRatio || 1];
    this.canvas.style.height = `${lanes.length * ROW}px`;
    this.canvas.width = width * scale;
    this.canvas.height = lanes.length * ROW * scale;
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    const style = getComputedStyle(document.documentElement);
    const colours = ["--calm", ...SEVERITIES.map((one) => `--${one.name}`)].map((name) => style.getPropertyValue(name).trim());
    const across = width / this.cells;
    this.paintAxis(width);
    lanes.forEach((lane, row) => lane.cells.forEach((cell, i) => {
      if (cell < 0) return;
      pen.fillStyle = colours[cell];
      pen.fillRect(i * across, row * ROW + 1, Math.max(across - 1, 1), ROW - 2);
    }));
    pen.strokeStyle = style.getPropertyValue("--text").trim();
    pen.lineWidth = 2;
    if (this.marked) {
      const [a, b] = [Math.min(...this.marked), Math.max(...this.marked)];
      pen.strokeRect(a * across, 1, (b - a + 1) * across, lanes.length * ROW - 2);
    }
    if (this.at && document.activeElement === this.host) pen.strokeRect(this.at.cell * across, this.at.lane * ROW + 1, across, ROW - 2);
  }

  paintAxis(width) {
    const [from, to] = [this.begin(0), this.begin(this.cells)];
    const { moments, texts } = clock.ticks(from, to, Math.max(2, Math.floor(width / TICK_PX)));
    get("heat-axis").replaceChildren(...moments.map((moment, i) => {
      const tick = node("span", "", texts[i]);
      tick.style.left = `${(moment - from) / (to - from) * 100}%`;
      return tick;
    }));
  }

  // What the colours mean.
  paintKey() {
    get("heat-key").replaceChildren(...["nothing known", ...WORDS].map((word, i) => {
      const one = node("span", "", word);
      const colour = node("i", i ? "" : "unknown");
      if (i) colour.style.setProperty("--own", `var(--${word})`);
      one.prepend(colour);
      return one;
    }));
  }

  // --- pointer and keyboard -----------------------------------------------------------------------------------------
  hearPointer() {
    let from = null;
    const place = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return {
        x: event.clientX,
        cell: Math.max(0, Math.min(this.cells - 1, Math.floor((event.clientX - box.left) / box.width * this.cells))),
        lane: Math.max(0, Math.min(this.told.lanes.length - 1, Math.floor((event.clientY - box.top) / ROW))),
      };
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      if (!this.told?.lanes.length) return;
      from = place(event);
      this.canvas.setPointerCapture(event.pointerId);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!this.told?.lanes.length) return;
      const { cell, lane, x } = place(event);
      if (from && Math.abs(x - from.x) >= MOVED_MIN) this.marked = [from.cell, cell];
      this.canvas.title = this.sentence(lane, cell);
      if (from) this.paint();
    });
    this.canvas.addEventListener("pointerup", (event) => {
      if (!from) return;
      const { lane } = place(event);
      from = null;
      if (this.marked) this.zoomIn(); else this.choose(this.told.lanes[lane]);
    });
    this.canvas.addEventListener("pointercancel", () => { from = this.marked = null; this.paint(); });
  }

  onKey(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -CELLS], End: [0, CELLS] };
    if (!this.told?.lanes.length) return;
    const at = this.at ?? { lane: 0, cell: this.cells - 1 };
    if (Object.hasOwn(steps, event.key)) {
      const [down, right] = steps[event.key];
      const cell = Math.max(0, Math.min(this.cells - 1, at.cell + right));
      this.marked = event.shiftKey && right ? [this.marked?.[0] ?? at.cell, cell] : null;
      this.reach(Math.max(0, Math.min(this.told.lanes.length - 1, at.lane + down)), cell);
    } else if (event.key === "Enter") {
      if (this.marked) this.zoomIn(); else this.choose(this.told.lanes[at.lane]);
    } else if (event.key === "Escape" && this.marked) {
      this.marked = null;
      this.reach(at.lane, at.cell);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  reach(lane, cell) {
    this.at = { lane, cell };
    get("heat-said").textContent = this.marked ?
      `${when(this.begin(Math.min(...this.marked)))} to ${when(this.begin(Math.max(...this.marked) + 1))} is marked; Enter zooms into it.` :
      this.sentence(lane, cell);
    this.paint();
  }

  sentence(lane, cell) {
    const { cells } = this.told.lanes[lane];
    return `${this.called(this.told.lanes[lane])}, ${when(this.begin(cell))} to ${when(this.begin(cell + 1))}: ${cells[cell] < 0 ? "nothing known" : WORDS[cells[cell]]}`;
  }

  zoomIn() {
    const [from, to] = [this.begin(Math.min(...this.marked)), this.begin(Math.max(...this.marked) + 1)];
    this.marked = this.at = null;
    this.first = 0;
    this.zoom(from, Math.min(to, Date.now()));
  }
}
