// The list of jobs: asked for again every few seconds while someone looks at it.

import { connection, onRefresh, refreshSoon } from "./live.js";
import { dress } from "./page.js";

const EVERY = 3000;

dress();
connection("live", "Live");
onRefresh((worked) => {
  dress();
  connection(worked ? "live" : "offline", worked ? "Live" : "Server not reachable");
});
setInterval(() => { if (!document.hidden) refreshSoon(); }, EVERY);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refreshSoon(); });
