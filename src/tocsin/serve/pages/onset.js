// The signal of an alarm before and after it began, with its band, as a small picture that is also told in words.
import { node, show, when } from "/chart.js";

const [WIDTH_MAX, HEIGHT, LEFT, BELOW] = [640, 190, 54, 18];
const SVG = "http://www.w3.org/2000/svg";
const told = (value) => typeof value === "number";

/**
 * @param {import("/wire.js").Onset} onset
 * @param {string} unit
 */
export function drawn({ signal, at_ms, points, band, at_onset, before, after }, unit) {
  const width = Math.min(WIDTH_MAX, Math.max(280, Math.round(innerWidth * 0.92) - 50)); // as wide as the dialog: its texts are not shrunk
  const edges = [at_onset.lower, at_onset.upper, at_onset.limit].filter(told);
  const values = [...points.least, ...points.most, ...(band.lower ?? []), ...(band.upper ?? []), ...edges].filter(told);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const pad = (high - low || Math.abs(high) || 1) * 0.08;
  const times = [...points.time, at_ms];
  const [from, to] = [Math.min(...times), Math.max(...times) + 1];
  const x = (time) => LEFT + (time - from) / (to - from) * (width - LEFT - 2);
  const y = (value) => (high + pad - value) / (high - low + 2 * pad) * (HEIGHT - BELOW);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", class: "onset" });
  picture.setAttribute("aria-label", sentences({ signal, at_onset, before, after }, unit).join(" "));
  area(picture, "band", band.time, band.lower, band.upper, x, y);
  for (const edge of edges) picture.append(svg("line", { class: "edge", x1: LEFT, x2: width, y1: y(edge), y2: y(edge) }));
  area(picture, "spread", points.time, points.least, points.most, x, y);
  const line = points.time.map((time, i) => [time, points.value[i]]).filter(([, value]) => told(value));
  picture.append(svg("polyline", { class: "line", points: line.map(([time, value]) => `${x(time)},${y(value)}`).join(" ") }));
  picture.append(svg("line", { class: "began", x1: x(at_ms), x2: x(at_ms), y1: 0, y2: HEIGHT - BELOW }));
  for (const [value, at] of [[high, 10], [low, HEIGHT - BELOW - 2]]) picture.append(words(show(value), LEFT - 6, at, "end"));
  picture.append(words(when(from), LEFT, HEIGHT - 4, "start"), words("began", x(at_ms) + (x(at_ms) > width / 2 ? -5 : 5), 10, x(at_ms) > width / 2 ? "end" : "start"), words(when(to), width, HEIGHT - 4, "end"));
  return picture;
}

/** Returns what the picture shows, in words. */
export function sentences({ signal, at_onset, before, after }, unit) {
  const of = (span) => span.count ? `${show(span.least)} to ${show(span.most)}${unit}` : "no reading";
  const usual = told(at_onset.lower) || told(at_onset.upper)
    ? `Its band when it began: ${told(at_onset.lower) ? show(at_onset.lower) : "anything"} to ${told(at_onset.upper) ? show(at_onset.upper) : "anything"}${unit}.`
    : told(at_onset.limit) ? `Its limit: ${show(at_onset.limit)}${unit}.` : "";
  return [`${signal} in the hour before: ${of(before)}; from then on: ${of(after)}.`, usual].filter(Boolean);
}

/** Returns the picture, with its words under it. */
export function figure(onset, called, unit) {
  const made = node("figure", "around");
  const space = unit ? ` ${unit}` : "";
  const named = { ...onset, signal: called };
  made.append(drawn(named, space), node("figcaption", "", sentences(named, space).join(" ")));
  return made;
}

function area(picture, name, times, lower, upper, x, y) {
  const both = (times ?? []).map((time, i) => [time, lower?.[i], upper?.[i]]).filter(([, a, b]) => told(a) && told(b));
  if (!both.length) return;
  const [there, back] = [both.map(([time, , b]) => `${x(time)},${y(b)}`), both.map(([time, a]) => `${x(time)},${y(a)}`).reverse()];
  picture.append(svg("polygon", { class: name, points: [...there, ...back].join(" ") }));
}

function words(text, x, y, anchor) {
  const made = svg("text", { x, y, "text-anchor": anchor });
  made.textContent = text;
  return made;
}

function svg(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
