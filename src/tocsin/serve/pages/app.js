// The page: tiles, charts of the chosen machine, alarms. Every text that comes from a device is set as text, never as HTML.
import { Charts, node, show } from "/chart.js";

const SPARK_POINTS = 60;
const SHAPES = { critical: "◆", major: "▲", minor: "■", warning: "●", silent: "◌", running: "▸" };
const SEVERITIES = ["warning", "minor", "major", "critical"];
const LABELS = {
  ACTIVE_UNACK: "active", ACTIVE_ACK: "active, acknowledged", CLEARED_UNACK: "cleared, not acknowledged", CLEARED_ACK: "cleared",
  LATCHED_UNACK: "latched", LATCHED_ACK: "latched, acknowledged", NORMAL: "normal",
};
const CLOSED = ["NORMAL", "CLEARED_ACK"];
const get = (id) => document.getElementById(id);
const machines = new Map();
const series = new Map(); // id to {machine, signal, stream}
const alarms = new Map();
const charts = new Charts(get("charts"));
let chosen = null;
let picked = false; // whether a person chose it
let csrf = "";
let source = null;
let position = "";
let title = "tocsin";
let shownMachines = "all";
let shownAlarms = "open";

const rank = (severity) => SEVERITIES.indexOf(severity) + 1;
const active = (alarm) => String(alarm.state).startsWith("ACTIVE");
const shelved = (alarm) => alarm.mode === "shelved";
const open = (alarm) => !CLOSED.includes(alarm.state);

// --- talking to the server -------------------------------------------------------------------------------------------
async function ask(path, options) {
  const response = await fetch(path, options);
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(body.error || `the page answered ${response.status}`), { status: response.status });
  return body;
}

const post = (path, body) => ask(path, { method: "POST", headers: { "content-type": "application/json", "x-tocsin-csrf": csrf }, body: JSON.stringify(body) });

async function begin() {
  try {
    const session = await ask("/api/session");
    csrf = session.csrf;
    title = session.title;
    get("title").textContent = title;
    await reload();
    listen();
  } catch (error) {
    if (error.status === 401) { get("sign-in").showModal(); return; }
    link("lost", "page unreachable");
    setTimeout(begin, 2000);
  }
}

async function reload() {
  const [all, rung, counted] = await Promise.all([ask("/api/machines"), ask("/api/alarms"), ask("/api/counters")]);
  position = all.position;
  for (const tile of machines.values()) { seen.unobserve(tile.root); tile.root.remove(); }
  sorted.length = 0;
  machines.clear();
  series.clear();
  alarms.clear();
  for (const machine of all.machines) {
    tileOf(machine.name);
    update(machine);
    for (const one of machine.series) {
      series.set(one.id, one);
      spark(one, one.recent);
    }
  }
  for (const alarm of rung.alarms) alarms.set(alarm.id, alarm);
  figures(counted);
  paint.tiles = paint.alarms = true;
  if (chosen && machines.has(chosen)) await choose(chosen, picked);
  else { chosen = null; picked = false; first(); }
}

function listen() {
  if (source) source.close();
  source = new EventSource(`/events?after=${encodeURIComponent(position)}`);
  source.onopen = () => link("waiting", "connected");
  source.onmessage = (event) => {
    const number = Number(event.lastEventId.split("-")[1]);
    const before = Number(position.split("-")[1]);
    const missed = event.lastEventId.split("-")[0] !== position.split("-")[0] || number > before + 1;
    position = event.lastEventId;
    apply(JSON.parse(event.data));
    if (missed && chosen) refresh();
  };
  source.addEventListener("reset", () => { begin(); });
  source.onerror = () => {
    link("lost", "reconnecting");
    if (source.readyState === EventSource.CLOSED) { source.close(); source = null; setTimeout(begin, 2000); }
  };
}

let refreshing = 0;
function refresh() { // points were missed: load the chosen machine anew, at most every five seconds
  if (refreshing) return;
  refreshing = setTimeout(() => { refreshing = 0; if (chosen) choose(chosen, picked); }, 5000);
}

// --- what has changed ------------------------------------------------------------------------------------------------
function apply(changes) {
  for (const machine of changes.machines ?? []) { tileOf(machine.name); update(machine); }
  for (const one of changes.series ?? []) series.set(one.id, one);
  for (const [id, points] of Object.entries(changes.points ?? {})) {
    const one = series.get(Number(id));
    if (!one) continue;
    spark(one, points[1]);
    if (one.machine !== chosen) continue;
    if (loading) arrived.push([one, points]);
    charts.add(one, points);
  }
  for (const alarm of changes.alarms ?? []) { alarms.set(alarm.id, alarm); paint.alarms = true; }
  if (changes.alarms && alarms.size > 600) for (const [id, alarm] of alarms) if (!open(alarm) && alarms.size > 500) alarms.delete(id);
  if (changes.counters) figures(changes.counters);
  if (!picked) first();
  paint.tiles = true;
}

function figures(counted) {
  link(counted.engine ? "live" : "waiting", counted.engine ? "live" : "engine not connected");
  get("figure-rate").textContent = show(Math.round(counted.rows_per_s));
  get("figure-rows").textContent = counted.rows_in.toLocaleString("en");
  get("figure-lag").textContent = counted.lag_s === null ? "–" : counted.lag_s < 1 ? `${Math.round(counted.lag_s * 1000)} ms` : `${show(counted.lag_s)} s`;
  get("figure-bad").textContent = counted.bad.toLocaleString("en");
  get("figure-late").textContent = counted.late.toLocaleString("en");
  get("box-bad").classList.toggle("warm", counted.bad > 0);
  get("trouble").hidden = !counted.trouble;
  get("trouble").textContent = counted.trouble ?? "";
  get("box-bad").title = Object.entries(counted.bad_by_reason).map(([reason, n]) => `${reason}: ${n}`).join("\n");
  get("left-out").hidden = !counted.machines_left_out;
  get("left-out").textContent = `Only the first ${machines.size} machines are shown here; all of them are watched.`;
}

function link(state, text) {
  get("link").dataset.state = state;
  get("link").textContent = text;
}

// --- machines --------------------------------------------------------------------------------------------------------
const sorted = []; // tiles by name
const order = new Intl.Collator("en", { numeric: true });
const owners = new WeakMap();
const seen = new IntersectionObserver((entries) => { // only tiles in sight are painted
  for (const entry of entries) {
    const tile = machines.get(owners.get(entry.target));
    if (tile) tile.visible = entry.isIntersecting;
  }
  paint.tiles = true;
}, { root: null, rootMargin: "200px" });

function tileOf(name) {
  let tile = machines.get(name);
  if (tile) return tile;
  const root = node("button", "tile");
  root.type = "button";
  const top = node("div", "top");
  const label = node("span", "name", name);
  label.title = name;
  const pill = node("span", "pill");
  const body = node("div", "body");
  const values = node("ul");
  const canvas = node("canvas");
  top.append(label, pill);
  body.append(values, canvas);
  root.append(top, body);
  root.addEventListener("click", () => choose(name, true));
  seen.observe(root);
  owners.set(root, name);
  tile = { name, visible: false, root, pill, values, canvas, status: "running", severity: "", state: "", signals: new Map(), dirty: true };
  machines.set(name, tile);
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (order.compare(sorted[middle].name, name) < 0) low = middle + 1; else high = middle;
  }
  get("tiles").insertBefore(root, sorted[low]?.root ?? null);
  sorted.splice(low, 0, tile);
  return tile;
}

function update(machine) {
  const tile = machines.get(machine.name);
  Object.assign(tile, { status: machine.status, severity: machine.severity, state: machine.state, dirty: true });
  paint.tiles = true;
}

function spark(one, values) {
  const tile = machines.get(one.machine);
  if (!tile) return;
  let own = tile.signals.get(one.signal);
  if (!own) tile.signals.set(one.signal, own = { id: one.id, recent: [] });
  if (own.id !== one.id) return; // the same signal in a later stream
  for (const value of values) own.recent.push(value);
  if (own.recent.length > SPARK_POINTS) own.recent.splice(0, own.recent.length - SPARK_POINTS);
  tile.dirty = true;
}

function pillFor(pill, tile) {
  pill.hidden = false;
  pill.dataset.status = tile.status;
  pill.dataset.severity = tile.severity;
  const word = tile.status === "alarm" ? tile.severity : tile.status === "running" && tile.state ? tile.state : tile.status;
  pill.textContent = `${SHAPES[tile.severity] ?? SHAPES[tile.status] ?? ""} ${word}`;
}

function paintTile(tile) {
  tile.dirty = false;
  tile.root.dataset.status = tile.status;
  tile.root.dataset.severity = tile.severity;
  tile.root.setAttribute("aria-pressed", String(tile.name === chosen));
  pillFor(tile.pill, tile);
  const signals = [...tile.signals.entries()].slice(0, 3);
  while (tile.values.children.length < signals.length) { const row = node("li"); row.append(node("span"), node("b")); tile.values.append(row); }
  const common = commonStart([...tile.signals.keys()]);
  signals.forEach(([signal, own], i) => {
    const [name, value] = tile.values.children[i].children;
    name.textContent = signal.slice(common);
    name.title = signal;
    value.textContent = show(own.recent.findLast((v) => v !== null));
  });
  if (signals.length) drawSpark(tile.canvas, signals[0][1].recent);
}

// How many characters all names begin with, up to a mark that ends a word: what is left tells them apart.
function commonStart(names) {
  if (names.length < 2) return 0;
  let end = 0;
  while (end < names[0].length && names.every((name) => name[end] === names[0][end])) end++;
  while (end > 0 && /[\p{L}\p{N}]/u.test(names[0][end - 1])) end--;
  return end < 4 ? 0 : end;
}

function drawSpark(canvas, values) {
  const [width, height, scale] = [96, 34, window.devicePixelRatio || 1];
  if (canvas.width !== width * scale) { canvas.width = width * scale; canvas.height = height * scale; }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  const known = values.filter((v) => v !== null);
  if (known.length < 2) return;
  const low = Math.min(...known);
  const span = Math.max(...known) - low || 1;
  pen.strokeStyle = charts.colours.value;
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

// Without a choice by a person: the first machine that alarms, worst first, else the first.
function first() {
  const alarmed = [...machines.values()].filter((tile) => tile.status === "alarm").sort((a, b) => rank(b.severity) - rank(a.severity));
  const wanted = alarmed[0]?.name ?? sorted[0]?.name;
  if (wanted !== undefined && (!chosen || (alarmed.length && machines.get(chosen)?.status !== "alarm"))) choose(wanted, false);
}

let asked = 0;
let loading = false;
let arrived = []; // points of the chosen machine that come while its past is being loaded
async function choose(name, byPerson) {
  chosen = name;
  picked = byPerson;
  for (const tile of machines.values()) tile.dirty = true;
  paint.tiles = true;
  get("chosen").textContent = name;
  const mine = ++asked;
  arrived = [];
  loading = true;
  try {
    const loaded = await ask(`/api/series?machine=${encodeURIComponent(name)}`);
    if (mine !== asked) return;
    charts.load(loaded.series);
    for (const [one, points] of arrived) charts.add(one, points);
    get("empty").hidden = true;
  } catch (error) {
    if (mine === asked && error.status !== 404) toast(error.message);
  } finally {
    if (mine === asked) { loading = false; arrived = []; }
  }
}

function paintMachines() {
  const wanted = get("filter").value.trim().toLowerCase();
  const counts = { all: machines.size, alarm: 0, silent: 0 };
  for (const tile of machines.values()) {
    if (tile.status in counts) counts[tile.status]++;
    const hidden = (shownMachines !== "all" && tile.status !== shownMachines) || !tile.name.toLowerCase().includes(wanted);
    if (tile.root.hidden !== hidden) tile.root.hidden = hidden;
    if (tile.dirty && tile.visible) paintTile(tile);
  }
  const tile = machines.get(chosen);
  if (tile) pillFor(get("chosen-state"), tile);
  get("figure-machines").textContent = machines.size;
  chips("chips", [["all", "all"], ["alarm", "in alarm"], ["silent", "silent"]], counts, shownMachines, (name) => { shownMachines = name; });
}

function chips(host, names, counts, pressed, press) {
  const bar = get(host);
  if (!bar.children.length) {
    for (const [name, label] of names) {
      const chip = node("button", "chip", label);
      chip.type = "button";
      chip.append(node("b"));
      chip.addEventListener("click", () => { press(name); paint.tiles = paint.alarms = true; });
      bar.append(chip);
    }
  }
  names.forEach(([name], i) => {
    bar.children[i].setAttribute("aria-pressed", String(name === pressed));
    bar.children[i].lastChild.textContent = counts[name];
  });
}

// --- alarms ----------------------------------------------------------------------------------------------------------
const rows = new Map(); // alarm id to its elements

function alarmRow(id) {
  const root = node("li", "alarm");
  const top = node("div", "top");
  const pill = node("span", "pill");
  const where = node("button", "where");
  where.type = "button";
  where.addEventListener("click", () => { const owner = ownerOf(alarms.get(id).machine); if (owner) choose(owner, true); });
  const time = node("time");
  const message = node("div", "message");
  const facts = node("div", "facts");
  const acts = node("div", "acts");
  const ack = node("button", "act primary ack", "Acknowledge");
  const shelve = node("button", "act shelve", "Shelve 1 h");
  const unshelve = node("button", "act unshelve", "Unshelve");
  const reset = node("button", "act reset", "Reset");
  ack.addEventListener("click", () => act(id, "acknowledge", {}));
  shelve.addEventListener("click", () => act(id, "shelve", { for_s: 3600 }));
  unshelve.addEventListener("click", () => act(id, "unshelve", {}));
  reset.addEventListener("click", () => act(id, "reset", {}));
  top.append(pill, node("span", "spring"), time);
  acts.append(ack, reset, shelve, unshelve);
  root.append(top, where, message, facts, acts);
  return { root, pill, where, time, message, facts, acts, ack, shelve, unshelve, reset, sent: "", about: null };
}

function ownerOf(key) {
  while (!machines.has(key) && key.includes("/")) key = key.slice(0, key.lastIndexOf("/"));
  return machines.has(key) ? key : null;
}

async function act(id, action, details) {
  const row = rows.get(id);
  const about = row.about = alarms.get(id);
  row.sent = action;
  paint.alarms = true;
  setTimeout(() => { // the engine answers with a new row of this alarm; if it does not, the buttons come back
    if (row.about === about && row.sent) { row.sent = ""; paint.alarms = true; toast("The engine has not answered yet; the action is kept."); }
  }, 15000);
  try {
    await post(`/api/alarms/${encodeURIComponent(id)}/${action}`, { by: get("by").value, ...details });
  } catch (error) {
    row.sent = "";
    paint.alarms = true;
    toast(error.message);
  }
}

function paintAlarms() {
  const all = [...alarms.values()];
  const counts = { open: all.filter(open).length, all: all.length };
  const shown = all.filter((alarm) => shownAlarms === "all" || open(alarm)).sort((a, b) =>
    active(b) - active(a) || (b.state === "ACTIVE_UNACK") - (a.state === "ACTIVE_UNACK") || rank(b.severity) - rank(a.severity) ||
    String(b.time).localeCompare(String(a.time))).slice(0, 100);
  const list = get("alarms");
  const keep = new Set(shown.map((alarm) => alarm.id));
  for (const [id, row] of rows) if (!keep.has(id)) { row.root.remove(); rows.delete(id); }
  shown.forEach((alarm, i) => {
    let row = rows.get(alarm.id);
    if (!row) rows.set(alarm.id, row = alarmRow(alarm.id));
    paintAlarm(row, alarm);
    if (list.children[i] !== row.root) list.insertBefore(row.root, list.children[i] ?? null);
  });
  const ringing = all.filter(active);
  const worst = ringing.some((alarm) => rank(alarm.severity) >= 3);
  get("figure-alarms").textContent = ringing.length;
  get("box-alarms").classList.toggle("hot", worst);
  get("box-alarms").classList.toggle("warm", !worst && ringing.length > 0);
  get("quiet").hidden = shown.length > 0;
  document.title = ringing.length ? `(${ringing.length}) ${title}` : title;
  chips("alarm-chips", [["open", "open"], ["all", "all"]], counts, shownAlarms, (name) => { shownAlarms = name; });
}

function paintAlarm(row, alarm) {
  const severity = SEVERITIES.includes(alarm.severity) ? alarm.severity : "warning";
  if (row.sent && row.about !== alarm) row.sent = "";
  row.root.dataset.severity = severity;
  row.root.dataset.active = String(active(alarm));
  row.root.dataset.state = alarm.state;
  row.root.dataset.id = alarm.id;
  row.pill.dataset.severity = active(alarm) ? severity : "";
  row.pill.dataset.status = active(alarm) ? "alarm" : "silent";
  row.pill.textContent = `${SHAPES[severity]} ${severity}`;
  row.where.textContent = alarm.machine;
  row.where.title = alarm.machine;
  const when = new Date(alarm.time);
  row.time.dateTime = String(alarm.time);
  row.time.textContent = when.toLocaleTimeString("en-GB");
  row.time.title = when.toLocaleString("en-GB");
  const message = alarm.message ?? "";
  row.message.textContent = message.startsWith(`${alarm.machine} `) ? message.slice(alarm.machine.length + 1) : message;
  const facts = [LABELS[alarm.state] ?? String(alarm.state).toLowerCase().replaceAll("_", " ")];
  if (alarm.mode) facts.push(String(alarm.mode).replaceAll("_", " "));
  if (alarm.by) facts.push(`${String(alarm.event).replaceAll("_", " ")} by ${alarm.by}`);
  if (alarm.value !== null && alarm.value !== undefined) facts.push(`value ${show(alarm.value)}`);
  if (alarm.limit !== null && alarm.limit !== undefined) facts.push(`limit ${show(alarm.limit)}`);
  if (alarm.score !== null && alarm.score !== undefined) facts.push(`score ${Math.round(alarm.score)}`);
  if (alarm.reason) facts.push(alarm.reason);
  row.facts.textContent = facts.join(" · ");
  const unacknowledged = String(alarm.state).endsWith("UNACK");
  row.ack.hidden = !unacknowledged;
  row.shelve.hidden = !active(alarm) || shelved(alarm);
  row.unshelve.hidden = !shelved(alarm);
  row.reset.hidden = alarm.state !== "LATCHED_ACK";
  row.acts.hidden = !row.acts.querySelector("button:not([hidden])");
  for (const button of [row.ack, row.shelve, row.unshelve, row.reset]) button.disabled = Boolean(row.sent);
  row.ack.textContent = row.sent === "acknowledge" ? "Acknowledging…" : "Acknowledge";
}

// --- the rest --------------------------------------------------------------------------------------------------------
const paint = { tiles: true, alarms: true };
setInterval(() => {
  if (document.hidden) return;
  if (paint.tiles) { paint.tiles = false; paintMachines(); }
  if (paint.alarms) { paint.alarms = false; paintAlarms(); }
}, 250);

let toasting = 0;
function toast(text) {
  get("toast").textContent = text;
  get("toast").hidden = false;
  clearTimeout(toasting);
  toasting = setTimeout(() => { get("toast").hidden = true; }, 6000);
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  localStorage.setItem("theme", name);
  charts.readColours();
  for (const tile of machines.values()) tile.dirty = true;
  paint.tiles = true;
}

get("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
get("filter").addEventListener("input", () => { paint.tiles = true; });
get("by").value = localStorage.getItem("by") || "operator";
get("by").addEventListener("change", () => localStorage.setItem("by", get("by").value));
get("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await ask("/api/session", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ token: get("token").value }) });
    get("token").value = "";
    get("sign-in").close();
    begin();
  } catch (error) { get("sign-in-error").textContent = error.message; }
});
theme(localStorage.getItem("theme") || (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark"));
begin();
