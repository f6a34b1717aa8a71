// Keeps a page as fresh as its server: asks for the page again and swaps the regions that changed.
// The server alone writes HTML, so a live page and a reloaded one cannot differ.

const served = new Map();
let busy = false;
let wanted = false;
let earliest = 0;
let timer = 0;
const listeners = [];

/** Call `listener` after every refresh. */
export function onRefresh(listener) {
  listeners.push(listener);
}

/** Say in the page's bar how it is kept fresh: "live", "polling", "offline" or "still". */
export function connection(state, text) {
  const element = document.getElementById("link");
  if (element.dataset.state === state && element.textContent === text) return;
  element.dataset.state = state;
  element.textContent = text;
}

/** Refresh soon. Calls in a burst become one; a slow page is asked for less often. */
export function refreshSoon() {
  wanted = true;
  if (busy || timer) return;
  timer = setTimeout(run, Math.max(60, earliest - performance.now()));
}

async function run() {
  timer = 0;
  busy = true;
  wanted = false;
  const begun = performance.now();
  try {
    const response = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
    if (response.ok) {
      swap(new DOMParser().parseFromString(await response.text(), "text/html"));
      for (const listener of listeners) listener(true);
    }
  } catch {
    for (const listener of listeners) listener(false);
  }
  const took = performance.now() - begun;
  earliest = performance.now() + Math.max(900, 5 * took);
  busy = false;
  if (wanted) refreshSoon();
}

function swap(next) {
  document.title = next.title;
  for (const region of document.querySelectorAll("[data-live]")) {
    const fresh = next.getElementById(region.id);
    if (!fresh) continue;
    copyAttributes(fresh, region);
    if (region.dataset.live === "attributes") continue;
    const html = fresh.innerHTML;
    if (served.get(region.id) === html) continue;
    served.set(region.id, html);
    replace(region, fresh);
  }
}

function copyAttributes(from, to) {
  for (const { name, value } of from.attributes) if (to.getAttribute(name) !== value) to.setAttribute(name, value);
  for (const name of to.getAttributeNames()) if (!from.hasAttribute(name)) to.removeAttribute(name);
}

function replace(region, fresh) {
  const focused = region.contains(document.activeElement) ? keyOf(region, document.activeElement) : null;
  const scrolled = [...region.querySelectorAll("[tabindex]")].map((element) => [element.scrollLeft, element.scrollTop]);
  for (const details of region.querySelectorAll("details[id][open]")) {
    const same = fresh.querySelector(`#${CSS.escape(details.id)}`);
    if (same) same.open = true;
  }
  region.replaceChildren(...fresh.childNodes);
  [...region.querySelectorAll("[tabindex]")].forEach((element, index) => {
    if (scrolled[index]) [element.scrollLeft, element.scrollTop] = scrolled[index];
  });
  if (focused) focused();
}

/** How to find the focused element again in a region whose children are new. */
function keyOf(region, element) {
  if (element.id) return () => document.getElementById(element.id)?.focus({ preventScroll: true });
  const selector = "a, button, summary, [tabindex]";
  const index = [...region.querySelectorAll(selector)].indexOf(element);
  return () => region.querySelectorAll(selector)[index]?.focus({ preventScroll: true });
}
