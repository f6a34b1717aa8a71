// The page of one job. The server's events say when something changed; live.js fetches what.

import { connection, onRefresh, refreshSoon } from "./live.js";
import { dress } from "./page.js";
import { Plot } from "./plot.js";

const KINDS = ["status", "stage", "progress", "message", "warning", "error", "trial"];
const POLL = 3000;
const HIDDEN = 15000;
const job = document.getElementById("job");
const plot = new Plot(document.getElementById("plot"));
let source = null;
let polling = 0;
let again = 0;

dress();
plot.update();
announceChanges();
askBeforeCancelling();
attend();
document.addEventListener("visibilitychange", attend);

onRefresh((worked) => {
  if (worked) {
    dress();
    plot.update();
    announceChanges();
  }
  if (final()) stop();
  else if (!worked) connection("offline", "Server not reachable");
  else if (polling) connection("polling", "Polling");
});

function final() {
  return job.dataset.final === "true";
}

/** Listen while someone looks. A browser has six connections a host: streams of hidden tabs would starve the others. */
function attend() {
  stop();
  if (final()) return;
  if (document.hidden) {
    poll(HIDDEN);
    return;
  }
  refreshSoon();
  listen();
}

function listen() {
  source = new EventSource(job.dataset.events);
  source.onopen = () => {
    endPolling();
    connection("live", "Live");
    refreshSoon();
  };
  for (const kind of KINDS) source.addEventListener(kind, (event) => { if (event instanceof MessageEvent) refreshSoon(); });
  source.onerror = () => {
    if (final()) return;
    if (!polling) poll(POLL);
    if (source.readyState === EventSource.CLOSED) again = setTimeout(attend, 10 * POLL);
  };
}

/** Ask now and then: until the stream is back, or while the tab is hidden and only its title can be seen. */
function poll(every) {
  connection("polling", "Polling");
  polling = setInterval(refreshSoon, every);
  refreshSoon();
}

function endPolling() {
  clearInterval(polling);
  polling = 0;
}

function stop() {
  source?.close();
  clearTimeout(again);
  endPolling();
  connection("still", "");
}

/** Tell a screen reader what a glance would tell: status, stage and each quarter of a stage, not every tick. */
function announceChanges() {
  const announcer = document.getElementById("announcer");
  const status = document.getElementById("status").textContent.trim();
  const step = document.querySelector(".stepper [aria-current] .name")?.firstChild.textContent.trim();
  const bar = document.getElementById("bar");
  const quarter = bar ? Math.floor((4 * bar.value) / bar.max) * 25 : 0;
  const text = `Job ${status}${step ? `, ${step}, ${quarter} percent` : ""}`;
  if (announcer.dataset.said !== text) {
    if (announcer.dataset.said) announcer.textContent = text;
    announcer.dataset.said = text;
  }
}

function askBeforeCancelling() {
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.id !== "cancel") return;
    const dialog = document.getElementById(form.dataset.confirm);
    event.preventDefault();
    dialog.returnValue = "";
    dialog.showModal();
    dialog.onclose = () => { if (dialog.returnValue === "yes") form.submit(); };
  });
}
