// The page of one job. The server's events say when something changed; live.js fetches what.

import { connection, onRefresh, refreshSoon } from "./live.js";
import { dress } from "./page.js";
import { Plot } from "./plot.js";

const KINDS = ["status", "stage", "progress", "message", "warning", "error", "trial"];
const POLL = 3000;
const job = document.getElementById("job");
const plot = new Plot(document.getElementById("plot"));
let source = null;
let polling = 0;

dress();
plot.update();
announceChanges();
askBeforeCancelling();
if (final()) connection("still", "");
else listen();

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

function listen() {
  source = new EventSource(job.dataset.events);
  source.onopen = () => {
    endPolling();
    connection("live", "Live");
    refreshSoon();
  };
  source.onmessage = refreshSoon;
  for (const kind of KINDS) source.addEventListener(kind, (event) => { if (event instanceof MessageEvent) refreshSoon(); });
  source.onerror = () => {
    if (final()) return;
    poll();
    if (source.readyState === EventSource.CLOSED) setTimeout(() => { if (!final()) listen(); }, 10 * POLL);
  };
}

/** Until the stream is back: ask now and then. */
function poll() {
  if (polling) return;
  connection("polling", "Polling");
  polling = setInterval(() => { if (!document.hidden) refreshSoon(); }, POLL);
  refreshSoon();
}

function endPolling() {
  clearInterval(polling);
  polling = 0;
}

function stop() {
  source?.close();
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
