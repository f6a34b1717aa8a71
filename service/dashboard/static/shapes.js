// SVG elements, markers and axis ticks; no state.

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element with attributes and, where given, text. */
export function element(tag, attributes = {}, text = null) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, typeof value === "number" ? +value.toFixed(2) : value);
  if (text !== null) made.textContent = text;
  return made;
}

/** The mark of a kind of candidate, centred: a diamond, a square, a triangle or a disc. */
export function marker(kind, x, y, r, classes) {
  const path = {
    model: `M${x} ${y - 1.3 * r}L${x + 1.3 * r} ${y}L${x} ${y + 1.3 * r}L${x - 1.3 * r} ${y}Z`,
    uniform: `M${x - r} ${y - r}H${x + r}V${y + r}H${x - r}Z`,
    start: `M${x} ${y - 1.2 * r}L${x + 1.15 * r} ${y + 0.9 * r}H${x - 1.15 * r}Z`,
  }[kind];
  return path ? element("path", { d: path, class: classes }) : element("circle", { cx: x, cy: y, r, class: classes });
}

/** A range within 0 … 1 that holds `values` with a margin, and at most about `most` round ticks in it. */
export function ticks(values, most) {
  if (!values.length) return { range: [0, 1], ticks: [0, 0.5, 1], text: (value) => value.toFixed(1) };
  let low = Math.min(...values);
  let high = Math.max(...values);
  const spread = Math.max(high - low, 0.08);
  const middle = (low + high) / 2;
  low = Math.max(-0.02, Math.min(low, middle - spread / 2) - 0.07 * spread);
  high = Math.min(1.02, Math.max(high, middle + spread / 2) + 0.07 * spread);
  const step = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2].find((size) => (high - low) / size <= most) ?? 0.5;
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + 1e-9; value += step) found.push(value);
  return { range: [low, high], ticks: found, text: (value) => Math.abs(value).toFixed(step < 0.01 ? 3 : step < 0.1 ? 2 : 1) };
}
