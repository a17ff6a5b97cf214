// Where the parts of a pipeline stand: each behind all that it reads from, near to them (after Sugiyama, Tagawa and Toda, 1981).

/** Returns the parts layer by layer; they come in an order in which each stands behind those that it reads from. */
export function layered(parts) {
  const depths = new Map();
  const layers = [];
  for (const part of parts) {
    const depth = Math.max(-1, ...part.inputs.map((one) => depths.get(one.part) ?? -1)) + 1;
    depths.set(part.id, depth);
    (layers[depth] ??= []).push(part);
  }
  const places = new Map();
  for (const layer of layers) {
    const wish = new Map(layer.map((part, i) => [part, mean(part.inputs.map((one) => places.get(one.part))) ?? i]));
    layer.sort((a, b) => wish.get(a) - wish.get(b));
    layer.forEach((part, i) => places.set(part.id, i - (layer.length - 1) / 2));
  }
  return layers;
}

function mean(values) {
  const known = values.filter((one) => one !== undefined);
  return known.length ? known.reduce((sum, one) => sum + one, 0) / known.length : undefined;
}
