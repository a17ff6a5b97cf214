// Spectrum and waterfall of the chosen machine, where its waveforms are kept as spectra: frequency across in both, time
// downwards in the waterfall, colour by amplitude. Lines stand where a damaged part of the bearing would be seen.
import { SEPARATORS, node, show, when } from "/chart.js";

const REFRESH_MS = 15000;
const REST_MS = 150; // between two moments that are asked for while somebody goes through them
const LEFT = 46; // pixels, as the charts have them
const RIGHT = 12;
const HEIGHT = 180;
const HARMONICS = 5;
const LINES_MAX = 1000;
const DASHES = ["solid", "dash", "dashdot", "dot"]; // of the parts, in their order: not by colour alone
const STOPS = [[13, 22, 66], [66, 40, 134], [158, 52, 121], [222, 92, 74], [251, 168, 55], [252, 255, 164]]; // dark to bright
const LABELS = { acceleration: "acceleration", envelope: "envelope (bearings)" };
const get = (id) => document.getElementById(id);

// The colour of each level, as red, green, blue and opacity; of 0, about which nothing is known, none.
const PALETTE = Uint8ClampedArray.from({ length: 1024 }, (_, i) => {
  const [level, part] = [i >> 2, i & 3];
  if (part === 3) return level ? 255 : 0;
  const at = Math.max(level - 1, 0) / 254 * (STOPS.length - 1);
  const below = Math.min(Math.floor(at), STOPS.length - 2);
  return STOPS[below][part] + (at - below) * (STOPS[below + 1][part] - STOPS[below][part]);
});

export class Vibration {
  // `load` gets spectra from the server; `ends` says which time is shown, `colours` those of the theme.
  constructor({ load, ends, colours }) {
    Object.assign(this, { load, ends, colours });
    this.root = get("vibration");
    this.canvas = get("waterfall");
    this.moment = get("spectrum-moment");
    this.machine = null;
    this.kind = "envelope";
    this.told = null; // what the server has told last
    this.image = null; // the waterfall, a pixel a cell and line
    this.at = null; // the moment whose spectrum is wanted; the newest if null
    this.asked = this.askedAt = 0;
    this.shown = ""; // which machine and time
    this.root.addEventListener("toggle", () => this.refresh());
    get("spectrum-kind").addEventListener("change", () => { this.kind = get("spectrum-kind").value; this.refresh(); });
    this.moment.addEventListener("input", () => this.goTo(Number(this.moment.value)));
    this.canvas.addEventListener("click", (event) => { const cell = this.cellAt(event); if (cell !== null) this.goTo(cell); });
    this.canvas.addEventListener("pointermove", (event) => this.say(event));
    new ResizeObserver(() => this.paint()).observe(this.canvas);
    setInterval(() => { if (this.goesOn && this.isOld) this.refresh(); }, REFRESH_MS);
  }

  // Shows another machine, or another time of it.
  choose(machine) {
    if (machine !== this.machine) { this.root.hidden = true; this.told = null; }
    const ends = this.ends();
    const shown = JSON.stringify([machine, ends && (this.goesOn ? Math.round((ends[1] - ends[0]) / REFRESH_MS) : ends)]);
    if (shown === this.shown && !this.isOld) return; // only time has gone on
    this.shown = shown;
    if (machine !== this.machine || (ends && (this.at < ends[0] || this.at > ends[1]))) this.at = null;
    this.machine = machine;
    this.refresh();
  }

  /** Whether the time that is shown goes on with the clock. */
  get goesOn() { const ends = this.ends(); return !ends || ends[1] > Date.now() - REFRESH_MS; }

  /** Whether a row of the waterfall has passed since it was asked for; more often would only cost. */
  get isOld() {
    const ends = this.ends();
    return Date.now() - this.askedAt >= Math.max(REFRESH_MS, ends ? (ends[1] - ends[0]) / HEIGHT : 0);
  }

  async refresh() {
    if (document.hidden || !this.machine || (!this.root.open && !this.root.hidden)) return;
    const mine = ++this.asked;
    this.askedAt = Date.now();
    const room = Math.round(Math.min(Math.max((this.root.clientWidth || 600) - LEFT - RIGHT, 100), LINES_MAX));
    const ends = this.ends();
    const time = ends ? `&from=${Math.round(ends[0])}&to=${Math.round(ends[1])}` : "";
    const at = this.at === null ? "" : `&at=${Math.round(this.at)}`;
    const told = await this.load(`machine=${encodeURIComponent(this.machine)}&kind=${this.kind}&cells=${HEIGHT}&lines=${room}${time}${at}`);
    if (!told || mine !== this.asked) return;
    this.told = told;
    this.root.hidden = !told.kinds.length;
    if (this.root.hidden) return;
    this.image = told.waterfall ? imageOf(told.waterfall) : null;
    this.describe();
    this.paint();
  }

  // The spectrum of a cell of the waterfall: of the last block in it.
  goTo(cell) {
    const { begin_ms, cell_ms, cells } = this.told.waterfall;
    this.at = cell >= cells - 1 ? null : begin_ms + (cell + 1) * cell_ms - 1;
    this.moment.value = cell;
    clearTimeout(this.due);
    this.due = setTimeout(() => this.refresh(), REST_MS);
    this.paintWaterfall();
  }

  /** Returns the cell of the waterfall whose spectrum is shown. */
  get cell() {
    const { begin_ms, cell_ms, cells } = this.told.waterfall;
    return Math.max(0, Math.min(cells - 1, Math.floor(((this.at ?? this.told.at_ms ?? Infinity) - begin_ms) / cell_ms)));
  }

  describe() {
    const { kinds, kind, unit, at_ms, fault, faults, waterfall, amplitudes, top_hz } = this.told;
    const choice = get("spectrum-kind");
    if (choice.children.length !== kinds.length) {
      choice.replaceChildren(...kinds.map((one) => { const option = node("option", "", LABELS[one]); option.value = one; return option; }));
    }
    choice.value = kind;
    choice.hidden = kinds.length < 2;
    get("spectrum-said").textContent = at_ms === null ? "No spectrum is kept of this time." :
      `${when(at_ms)}, ${unit}${fault ? `: ${fault} damaged` : faults.length ? ": no part of the bearing named" : ""}`;
    get("waterfall-box").hidden = !waterfall;
    if (waterfall) {
      this.moment.max = waterfall.cells - 1;
      this.moment.value = this.cell;
      this.moment.setAttribute("aria-valuetext", at_ms === null ? "" : when(at_ms));
      get("waterfall-scale").textContent = `${show(waterfall.lowest)} to ${show(waterfall.highest)} ${unit}`;
      this.canvas.setAttribute("aria-label", `Spectra from ${when(waterfall.begin_ms)} to ${when(waterfall.begin_ms + waterfall.cells * waterfall.cell_ms)}, 0 to ${show(waterfall.top_hz)} Hz`);
    }
    get("spectrum-table").replaceChildren(...faults.map((one) => {
      const row = node("tr");
      const name = node("th", "", `${one.name}, ${one.part}`);
      name.scope = "row";
      const line = amplitudes[Math.floor(one.hz / top_hz * amplitudes.length)];
      row.append(name, node("td", "", `${show(one.hz)} Hz`), node("td", "", `${show(line)} ${unit}`), node("td", "", show(one.ratio)), node("td", "", one.is_named ? "damaged" : "–"));
      return row;
    }));
    get("spectrum-table").parentElement.hidden = !faults.length;
  }

  paint() {
    if (!this.told || this.root.hidden || !this.root.open) return;
    this.paintSpectrum();
    this.paintWaterfall();
  }

  /** Returns the lines at which parts would be seen, with their harmonics; of the shaft where no bearing is known. */
  get marks() {
    const { shaft_hz, faults, top_hz } = this.told;
    const lines = faults.map((one, i) => ({ name: one.name, hz: one.hz, dash: DASHES[i], row: i % 2, named: one.is_named }));
    if (!lines.length && shaft_hz) lines.push({ name: "1×", hz: shaft_hz, dash: DASHES[0], row: 0, named: false });
    return lines.flatMap((line) => Array.from({ length: HARMONICS }, (_, i) => ({ ...line, at: line.hz * (i + 1), harmonic: i + 1 }))).filter((line) => line.at < top_hz);
  }

  paintSpectrum() {
    const { amplitudes, top_hz, unit } = this.told;
    const [c, host] = [this.colours(), get("spectrum-plot")];
    const width = top_hz / amplitudes.length;
    const axis = { gridcolor: c.grid, zeroline: false, linecolor: c.grid, tickcolor: c.grid, tickfont: { color: c.muted, size: 10 }, fixedrange: true };
    const line = (mark) => ({ type: "line", x0: mark.at, x1: mark.at, yref: "paper", y0: 0, y1: 1, layer: "below", line: { color: mark.named ? c.mark : c.expected, width: mark.named ? 1.6 : 1, dash: mark.dash } });
    const label = (mark) => ({ x: mark.at, yref: "paper", y: 1, yanchor: "bottom", yshift: mark.harmonic === 1 ? 10 * mark.row : 0, text: mark.harmonic === 1 ? mark.name : `${mark.harmonic}×`, showarrow: false, font: { size: 10, color: mark.named ? c.mark : c.muted } });
    const marks = this.marks;
    Plotly.react(host, [{
      type: "scatter", mode: "lines", x: amplitudes.map((_, i) => (i + 0.5) * width), y: amplitudes,
      line: { color: c.value, width: 1.3 }, hovertemplate: `%{x:.5~g} Hz, %{y:.4~g} ${unit}<extra></extra>`,
    }], {
      width: host.clientWidth, height: host.clientHeight, margin: { l: LEFT, r: RIGHT, t: 28, b: 24 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, separators: SEPARATORS, hovermode: "x", dragmode: false,
      hoverlabel: { bgcolor: c.panel, bordercolor: c.grid, font: { color: c.text, size: 11 } },
      xaxis: { ...axis, range: [0, Math.max(top_hz, this.told.waterfall?.top_hz ?? 0) || 1], ticksuffix: " Hz", nticks: 8 },
      yaxis: { ...axis, rangemode: "tozero", nticks: 4, tickformat: ".3~g" },
      shapes: marks.map(line), annotations: marks.filter((mark) => mark.harmonic === 1 || mark.named).map(label),
    }, { displayModeBar: false, responsive: false, showTips: false, doubleClick: false });
  }

  paintWaterfall() {
    if (!this.image) return;
    const { begin_ms, cell_ms, cells } = this.told.waterfall;
    const [width, scale] = [this.canvas.clientWidth, window.devicePixelRatio || 1];
    Object.assign(this.canvas, { width: width * scale, height: HEIGHT * scale });
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(this.image, LEFT, 0, width - LEFT - RIGHT, HEIGHT);
    const c = this.colours();
    pen.fillStyle = c.muted;
    pen.font = "10px sans-serif";
    pen.textAlign = "right";
    for (const [share, base] of [[0, "top"], [0.5, "middle"], [1, "bottom"]]) {
      pen.textBaseline = base;
      pen.fillText(clock(begin_ms + share * cells * cell_ms, cells * cell_ms), LEFT - 4, share * HEIGHT);
    }
    pen.strokeStyle = c.text;
    pen.lineWidth = 1.5;
    const y = (this.cell + 0.5) / cells * HEIGHT;
    pen.beginPath();
    pen.moveTo(LEFT - 6, y);
    pen.lineTo(LEFT, y);
    pen.moveTo(width - RIGHT, y);
    pen.lineTo(width - RIGHT + 6, y);
    pen.stroke();
  }

  cellAt(event) {
    if (!this.told?.waterfall) return null;
    const box = this.canvas.getBoundingClientRect();
    return Math.max(0, Math.min(this.told.waterfall.cells - 1, Math.floor((event.clientY - box.top) / box.height * this.told.waterfall.cells)));
  }

  say(event) {
    const cell = this.cellAt(event);
    if (cell === null) return;
    const { begin_ms, cell_ms, top_hz } = this.told.waterfall;
    const box = this.canvas.getBoundingClientRect();
    const hz = (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT) * top_hz;
    this.canvas.title = `${when(begin_ms + cell * cell_ms)}${hz >= 0 && hz <= top_hz ? `, ${show(hz)} Hz` : ""}`;
  }
}

function clock(moment, span) {
  const at = new Date(moment);
  return span > 2 * 86.4e6 ? at.toLocaleDateString("en-GB", { day: "numeric", month: "short" }) : at.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
}

// Spectra by time as a picture: a pixel for each line of each cell.
function imageOf({ cells, lines, levels }) {
  const told = atob(levels);
  const image = Object.assign(document.createElement("canvas"), { width: lines, height: cells });
  const pen = image.getContext("2d");
  const pixels = pen.createImageData(lines, cells);
  for (let i = 0; i < told.length; i++) {
    const level = 4 * told.charCodeAt(i);
    pixels.data.set(PALETTE.subarray(level, level + 4), 4 * i);
  }
  pen.putImageData(pixels, 0, 0);
  return image;
}
