// The page: tiles, charts of the chosen machine, alarms. Every text that comes from a device is set as text, never as HTML.
import { Access, reaches } from "/access.js";
import { AdminBox } from "/admin.js";
import { AlarmList } from "/alarms.js";
import { Charts, LANGUAGE, node, option, show, when, write } from "/chart.js";
import { clock } from "/clock.js";
import { Compare } from "/compare.js";
import { AlarmFilter, Views } from "/filters.js";
import { Kpis } from "/kpis.js";
import { Lanes } from "/lanes.js";
import { PipelineBox } from "/pipeline.js";
import { QueryBox } from "/query.js";
import { Range } from "/range.js";
import { Story } from "/story.js";
import { Tiles, paintPill } from "/tiles.js";
import { Together } from "/together.js";
import { Vibration } from "/vibration.js";
import { checked, standOf } from "/wire.js";
import { SEVERITIES } from "/words.js";

const QUIET_MS = 5000; // the server speaks four times a second
const RETRY_MS = 2000;
const STORY_TRIES = 15; // the tables have an alarm some seconds after its message has gone out
const LOOK_MS = 1000;
const NARROW = matchMedia("(max-width: 760px)"); // as style.css has it
const get = (id) => document.getElementById(id);
let filtered = false;
const filter = new AlarmFilter({ filtered: () => { filtered = true; }, write: () => range.write() });
const charts = new Charts(get("charts"), new Together(get("together")), (from, to) => range.choose({ from, to }), (signal, wanted) => compare.pick(signal, wanted));
const tiles = new Tiles(get("tiles"), { choose: lookAt, moved: lookSoon });
const compare = new Compare({
  load: (asked) => quietly(ask(`/api/series?${asked}`, "MachineHistory")), machines: () => tiles.byName.keys(), called: (name) => tiles.called(name),
  changed: () => { picked = true; range.show(chosen); }, show: (curves) => charts.compare(curves), join: (signals) => charts.join(signals), toast,
});
const range = new Range(() => { lanes.take(range.lanes === "signals"); lanes.refresh(); tiles.changed = alarms.changed = true; openLinked(); if (range.machine !== chosen && tiles.byName.has(range.machine)) choose(range.machine, true); else if (chosen) choose(chosen, picked); }, filter, compare);
const story = new Story(get("story"), goTo, (signal, unit) => [charts.names[signal]?.name || signal, unit || charts.names[signal]?.unit || ""], (key) => tiles.called(key), () => { range.alarm = ""; range.write(); });
const views = new Views({
  taken: () => new URLSearchParams([...(range.area ? [["area", range.area]] : []), ...filter.said]), say: toast,
  choose: (said) => { filter.read(said); chooseArea(said.get("area") ?? ""); },
});
const alarms = new AlarmList(get("alarms"), { goTo, explain: (alarm) => explain(alarm).catch((error) => toast(error.message)), send: act, announce, toast, called: (key) => tiles.called(key), named: (signal) => charts.names[signal] });
const lanes = new Lanes({
  load: (asked) => quietly(ask(`/api/lanes?${asked}&area=${encodeURIComponent(range.area)}`, "Lanes")),
  choose: ({ machine, signal }) => { if (signal) charts.reveal(signal); else if (tiles.byName.has(machine)) choose(machine, true); },
  zoom: (from, to) => range.choose({ from, to }), ends: () => range.ends,
  machine: () => chosen, called: ({ machine, signal }) => (signal ? charts.names[signal]?.name || signal : tiles.called(machine)),
  turned: () => { range.lanes = lanes.ofSignals ? "signals" : ""; range.write(); },
});
const vibration = new Vibration({
  load: (asked) => quietly(ask(`/api/spectra?${asked}`, "Spectra")), ends: () => range.ends, colours: () => charts.colours,
});
const kpis = new Kpis(get("kpis"), () => quietly(ask("/api/kpis", "KeyFigures")));
const access = new Access(ask, begin);
const pipeline = new PipelineBox((path, schema) => quietly(ask(path, schema)), () => (get("stale").hidden ? "" : get("stale").textContent), (part) => { range.part = part; range.write(); });
new QueryBox(access);
new AdminBox(() => ask("/api/access", "AccessReport"));
let chosen = null;
let picked = false; // whether a person chose it
let source = null;
let watched = null; // the machine whose points the source gives
let position = "";
let title = "tocsin";
let shownMachines = "all";

// --- talking to the server -------------------------------------------------------------------------------------------
async function ask(path, schema, options) {
  const response = await fetch(path, options);
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(body.error || `the page answered ${response.status}`), { status: response.status });
  return schema ? checked(schema, body) : body;
}

function act(id, action, details) {
  return ask(`/api/alarms/${encodeURIComponent(id)}/${action}`, "", { method: "POST", headers: access.headers, body: JSON.stringify(details) });
}

// What is asked for by itself, again and again: that the server is away is said elsewhere (`freshen`).
async function quietly(answer) {
  try { return await answer; } catch { freshen(); return null; }
}

async function begin() {
  try {
    const session = await ask("/api/session", "SessionInfo");
    access.take(session);
    clock.take(session.zone);
    range.paint();
    alarms.role = session.role;
    filter.me = session.name;
    views.of(session.name);
    namePeople();
    title = session.title;
    get("title").textContent = title;
    await reload();
    openLinked();
  } catch (error) {
    if (error.status === 401) { access.wanted(); return; }
    link("lost", "page unreachable");
    setTimeout(begin, RETRY_MS);
  }
}

// Whom one may choose to give an alarm to.
async function namePeople() {
  const told = reaches(access.role, "operator") ? await quietly(ask("/api/people", "People")) : null;
  get("people").replaceChildren(...(told?.names ?? []).map((name) => option(name)));
}

async function reload() {
  const [all, rung, counted] = await Promise.all([ask("/api/machines", "Machines"), ask("/api/alarms", "Alarms"), ask("/api/counters", "Figures")]);
  position = all.position;
  tiles.clear();
  for (const machine of all.machines) tiles.update(machine);
  charts.names = all.signals;
  alarms.load(rung.alarms);
  heard(counted);
  watched = null;
  const linked = chosen === null && tiles.byName.has(range.machine);
  if (linked) choose(range.machine, true);
  else if (chosen && tiles.byName.has(chosen)) choose(chosen, picked);
  else { chosen = null; picked = false; prefer(); }
  if (watched === null) listen("");
  lanes.take(range.lanes === "signals");
  lanes.refresh();
  kpis.refresh();
}

// Hears what changes of all machines, and the points of one; returns when that has begun.
function listen(machine) {
  if (source) source.close();
  watched = machine;
  const mine = source = new EventSource(`/events?after=${encodeURIComponent(position)}&machine=${encodeURIComponent(machine)}`);
  mine.onmessage = (event) => {
    const number = Number(event.lastEventId.split("-")[1]);
    const before = Number(position.split("-")[1]);
    const missed = event.lastEventId.split("-")[0] !== position.split("-")[0] || number > before + 1;
    position = event.lastEventId;
    apply(checked("Changes", JSON.parse(event.data)));
    if (missed && chosen && range.live) refresh(5000);
  };
  mine.addEventListener("points", (event) => { take(checked("NewPoints", JSON.parse(event.data))); });
  mine.addEventListener("reset", () => { begin(); });
  mine.onerror = () => {
    lost = true;
    freshen();
    if (mine.readyState === EventSource.CLOSED && mine === source) { source = null; setTimeout(begin, RETRY_MS); }
  };
  return new Promise((begun) => {
    let before = false;
    mine.onopen = () => {
      if (before && range.live) refresh(0); // points have come while it was away
      before = true;
      begun();
    };
    setTimeout(begun, RETRY_MS);
  });
}

let refreshing = 0;
function refresh(after) { // points were missed, or time has gone on: load the chosen machine anew
  if (refreshing) return;
  refreshing = setTimeout(() => { refreshing = 0; if (chosen) choose(chosen, picked); }, after);
}

// --- what has changed ------------------------------------------------------------------------------------------------
/** @param {import("/wire.js").Changes} changes */
function apply(changes) {
  for (const machine of changes.machines ?? []) tiles.update(machine);
  if (changes.alarms) alarms.apply(changes.alarms);
  heard(changes.counters);
  if (!picked) prefer();
  tiles.changed = true;
}

/** @param {import("/wire.js").NewPoints} points */
function take({ machine, series, again_s }) {
  if (machine !== chosen || !range.live) return;
  if (again_s) refresh(1000 * again_s);
  if (loading) arrived.push(...series);
  else for (const one of series) charts.add(one, one.points);
}

// What the tiles in sight show beside the state.
let looking = false;
async function look() {
  const ids = tiles.inSight;
  if (looking || lost || document.hidden || !ids.length) return;
  looking = true;
  const told = await quietly(ask(`/api/glances?ids=${ids.join(",")}`, "Glances"));
  looking = false;
  if (told) tiles.look(told.glances);
}
setInterval(look, LOOK_MS);

let lookDue = 0;
function lookSoon() {
  clearTimeout(lookDue);
  lookDue = setTimeout(look, LOOK_MS / 10);
}

/** @param {import("/wire.js").Figures} figures */
function heard(figures) {
  heardAt = Date.now();
  lost = false;
  engine = figures.engine;
  engineAt = heardAt - 1000 * figures.engine_silent_s;
  get("figure-rate").textContent = show(Math.round(figures.rows_per_s));
  get("figure-rows").textContent = figures.rows_in.toLocaleString(LANGUAGE);
  get("figure-lag").textContent = figures.lag_s === null ? "–" : figures.lag_s < 1 ? `${Math.round(figures.lag_s * 1000)} ms` : `${show(figures.lag_s)} s`;
  get("figure-bad").textContent = figures.bad.toLocaleString(LANGUAGE);
  get("figure-late").textContent = figures.late.toLocaleString(LANGUAGE);
  get("box-bad").classList.toggle("warm", figures.bad > 0);
  get("box-bad").title = Object.entries(figures.bad_by_reason).map(([reason, n]) => `${reason}: ${n}`).join("\n");
  get("trouble").hidden = !figures.trouble;
  write(get("trouble"), figures.trouble ?? "");
  const left = [
    figures.machines_left_out ? `Only the first ${tiles.byName.size} machines are shown here; all of them are watched.` : "",
    figures.series_in_turn ? `${figures.series_in_turn.toLocaleString("en")} signals and more come at once: tiles take turns, and the chosen machine is read from its table. All are watched.` : "",
  ].filter(Boolean).join(" ");
  get("left-out").hidden = !left;
  write(get("left-out"), left);
  ends(figures);
  freshen();
}

// Sinks that lag behind and sources that are silent, each in a sentence that leads to it in the pipeline.
function ends(figures) {
  const sentences = [
    ...Object.entries(figures.sources).map(([id, one]) => [id, `Source ${id} has ${one.silent_s === null ? "given nothing yet" : `been silent for ${show(Math.round(one.silent_s))} s`}${one.reason ? `: ${one.reason}` : ""}.`]),
    ...Object.entries(figures.sinks).map(([id, one]) => [id, `Sink ${id} is ${one.lag_epochs} ${one.lag_epochs === 1 ? "epoch" : "epochs"} behind${one.reason ? `: ${one.reason}` : ""}.`]),
  ];
  const list = get("ends");
  list.hidden = !sentences.length;
  sentences.forEach(([id, sentence], i) => {
    const button = (list.children[i] ?? list.appendChild(node("li"))).firstChild ?? list.children[i].appendChild(leading());
    button.dataset.part = id;
    write(button, sentence);
  });
  while (list.children.length > sentences.length) list.lastChild.remove();
}

function leading() {
  const button = node("button");
  button.type = "button";
  button.addEventListener("click", () => pipeline.open(button.dataset.part));
  return button;
}

// --- how fresh what is shown is --------------------------------------------------------------------------------------
let heardAt = 0;
let lost = false;
let engine = "gone";
let engineAt = 0;

function freshen() { // nothing that is old may look as if it were new
  if (!heardAt) return;
  const quiet = Date.now() - heardAt > QUIET_MS;
  let stale = "";
  if (lost || quiet) {
    link("lost", lost ? "reconnecting" : "server silent");
    stale = `The server has not been heard since ${when(heardAt)}. What you see is from then.`;
  } else if (engine === "live") {
    link("live", "live");
  } else if (engine === "stalled") {
    link("lost", "engine silent");
    stale = `The engine has said nothing since ${when(engineAt)}. What you see is from then.`;
  } else {
    link("waiting", "engine not connected");
    stale = "No engine is connected. What you see is from before.";
  }
  document.documentElement.dataset.stale = String(Boolean(stale));
  get("stale").hidden = !stale;
  write(get("stale"), stale);
}
setInterval(freshen, 1000);

function link(state, text) {
  get("link").dataset.state = state;
  write(get("link"), text);
}

// --- machines --------------------------------------------------------------------------------------------------------
function prefer() {
  const wanted = tiles.preferred(chosen);
  if (wanted !== undefined && wanted !== chosen) choose(wanted, false);
}

let asked = 0;
let loading = false;
let arrived = []; // points of the chosen machine that come while its past is being loaded
async function choose(name, byPerson) {
  chosen = tiles.chosen = name;
  picked = byPerson;
  tiles.repaint();
  sayChosen();
  alarms.changed = true; // which of its signals ring
  if (lanes.ofSignals && lanes.told?.lanes[0]?.machine !== name) lanes.refresh();
  if (byPerson || !range.live) range.show(name);
  range.paint();
  const mine = ++asked;
  const ends = range.ends;
  arrived = [];
  loading = true;
  if (watched !== name) await listen(name); // first: what comes while the past is loaded is kept
  if (mine !== asked) return;
  try {
    const past = ends ? `&from=${Math.round(ends[0])}&to=${Math.round(ends[1])}&points=${Math.min(Math.max(get("charts").clientWidth, 200), 600)}` : "";
    const loaded = await ask(`/api/series?machine=${encodeURIComponent(name)}${past}`, "MachineHistory");
    if (mine !== asked) return;
    charts.load(name, loaded.series, ends);
    for (const one of arrived) charts.add(one, one.points);
    compare.take(name, ends, () => charts.span);
    get("note").hidden = !loaded.note;
    get("note").textContent = loaded.note ?? "";
    get("empty").hidden = loaded.series.length > 0;
    vibration.choose(name);
    if (ends && !loaded.series.length) sayEmpty("Nothing is kept of this time", `The tables hold no readings of ${name} between ${when(ends[0])} and ${when(ends[1])}.`);
    if (range.everyMs || loaded.again_s) refresh(range.everyMs || 1000 * loaded.again_s);
  } catch (error) {
    if (mine === asked && (ends || error.status !== 404)) toast(error.message);
  } finally {
    if (mine === asked) { loading = false; arrived = []; }
  }
}

// A machine that a person has taken from the list; where one part of the page stands below the other, its part comes into view.
function lookAt(name) {
  choose(name, true);
  if (NARROW.matches) document.querySelector(".detail").scrollIntoView();
}

get("empty-pipeline").addEventListener("click", () => pipeline.open());

function sayEmpty(title, text) {
  get("empty-title").textContent = title;
  get("empty-text").textContent = text;
}

// From an alarm to its signal, at the moment it began.
async function goTo(alarm) {
  const owner = tiles.ownerOf(alarm.machine);
  if (!owner) { toast(`${alarm.machine} is not among the machines shown here.`); return; }
  const moment = Date.parse(alarm.started ?? alarm.time);
  if (owner === chosen && !loading) picked = true; else await choose(owner, true);
  if (!alarm.signal) return;
  const [from, to] = range.ends ?? [charts.oldest(alarm.signal), Date.now()];
  if (moment < from || moment > to) { // the tables go further back
    range.around(moment);
    await choose(owner, true);
  }
  if (!charts.focus(alarm.signal, moment)) toast(`No readings of ${alarm.signal} are kept here.`);
}

// An alarm that the page knows opens its story at once; the tables, which have it some seconds later, tell the rest.
async function explain({ id }, tries = STORY_TRIES) {
  const known = alarms.byId.get(id);
  if (known && tries === STORY_TRIES) story.wait(known);
  let told;
  try {
    told = await ask(`/api/alarms/${encodeURIComponent(id)}/evidence`, "Evidence");
  } catch (error) {
    if (!known) throw error;
    if (!story.isOpen(id)) return;
    story.say(error.message);
    if (error.status === 404 && tries > 1) setTimeout(() => { if (story.isOpen(id)) explain({ id }, tries - 1); }, RETRY_MS);
    return;
  }
  if (known && !story.isOpen(id)) return; // closed meanwhile
  story.show(known, told);
  range.alarm = id;
  range.write();
}

// What the address bar names: a part of the pipeline, and the story of an alarm, as the link in a message does.
async function openLinked(tries = STORY_TRIES) {
  const [id, part] = [range.alarm, range.part];
  if (part && pipeline.chosen !== part) await pipeline.open(part, true);
  if (!id || story.isOpen(id)) return;
  try { await explain({ id }); } catch (error) {
    if (tries === STORY_TRIES || tries === 1) toast(error.message);
    if (error.status === 404 && tries > 1) setTimeout(() => { if (range.alarm === id) openLinked(tries - 1); }, RETRY_MS);
  }
}

function paintMachines() {
  paintAreas();
  const counts = tiles.paint(shownMachines, get("filter").value.trim().toLowerCase(), range.area);
  const tile = tiles.byName.get(chosen);
  if (tile) { paintPill(get("chosen-state"), tile); sayChosen(); }
  get("figure-machines").textContent = tiles.byName.size;
  chips("chips", [["all", "all"], ["alarm", "in alarm"], ["silent", "silent"]], counts, shownMachines, (name) => { shownMachines = name; });
}

// The choice of an area or line, where machines are said to stand somewhere; it holds for machines and alarms.
function paintAreas() {
  const areas = tiles.areas;
  if (range.area && !areas.includes(range.area)) areas.push(range.area);
  const list = get("area");
  list.hidden = !areas.length;
  if (list.children.length !== areas.length + 1) list.replaceChildren(...["", ...areas].map((area) => { const one = node("option", "", area || "all areas"); one.value = area; return one; }));
  list.value = range.area;
}
get("area").addEventListener("change", () => chooseArea(get("area").value));

function chooseArea(area) {
  range.area = area;
  range.write();
  tiles.changed = alarms.changed = true;
  lanes.first = 0;
  lanes.refresh();
}

function sayChosen() {
  const tile = tiles.byName.get(chosen);
  get("chosen").textContent = tile?.label || chosen;
  get("chosen").title = [chosen, tile ? standOf(tile) : ""].filter(Boolean).join(" · ");
}

function chips(host, names, counts, pressed, press) {
  const bar = get(host);
  if (!bar.children.length) {
    for (const [name, label] of names) {
      const chip = node("button", "chip", label);
      chip.type = "button";
      chip.append(node("b"));
      chip.addEventListener("click", () => { press(name); tiles.changed = alarms.changed = true; });
      bar.append(chip);
    }
  }
  names.forEach(([name], i) => {
    bar.children[i].setAttribute("aria-pressed", String(name === pressed));
    bar.children[i].lastChild.textContent = counts[name];
  });
}

// --- alarms ----------------------------------------------------------------------------------------------------------
function paintAlarms() {
  const counts = alarms.paint(filter, (machine) => tiles.standsIn(machine, range.area));
  charts.ring(alarms.signalsOf((key) => tiles.ownerOf(key) === chosen));
  const hot = counts.worst > SEVERITIES.length / 2; // the upper half of the bands
  get("figure-alarms").textContent = counts.open;
  get("box-alarms").title = `${counts.active} active, ${counts.unacknowledged} not acknowledged`;
  get("box-alarms").classList.toggle("hot", hot);
  get("box-alarms").classList.toggle("warm", !hot && counts.open > 0);
  const left = filter.show === "all" ? counts.all : counts.open;
  get("quiet").hidden = counts.shown > 0;
  get("quiet-title").textContent = left ? "Nothing fits" : "All quiet";
  get("quiet-text").textContent = left ? `${left} alarms do not fit the filters, or stand elsewhere.` : "No alarm to show.";
  document.title = counts.open ? `(${counts.open}) ${title}` : title;
  chips("alarm-chips", [["open", "open"], ["all", "all"]], counts, filter.show, (name) => { filter.show = name; range.write(); });
}

// --- the rest --------------------------------------------------------------------------------------------------------
setInterval(() => {
  if (document.hidden) return;
  if (tiles.changed) { tiles.changed = false; paintMachines(); }
  if (alarms.changed || filtered) { alarms.changed = filtered = false; paintAlarms(); }
}, 250);

function announce(text) { get("announced").textContent = text; }

let toasting = 0;
function toast(text) {
  get("toast").textContent = text;
  get("toast").hidden = false;
  clearTimeout(toasting);
  toasting = setTimeout(() => { get("toast").hidden = true; }, 6000);
}

get("tiles").addEventListener("scroll", () => charts.rest(), { passive: true });

function theme(name) {
  document.documentElement.dataset.theme = name;
  localStorage.setItem("theme", name);
  charts.readColours();
  tiles.repaint();
  lanes.paint();
  vibration.paint();
}

get("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
get("filter").addEventListener("input", () => { tiles.changed = true; });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog, .heat")) return;
  if (alarms.key(event.key)) event.preventDefault();
});
theme(localStorage.getItem("theme") || (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark"));
begin();
