// Small comforts of every page: times in the reader's zone, buttons that copy a command.

const time = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const forms = {
  full: new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric", ...time }),
  short: new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", ...time }),
  clock: new Intl.DateTimeFormat(undefined, { ...time, second: "2-digit" }),
};

/** Bring what the server sent into shape; safe to call again after every refresh. */
export function dress() {
  for (const element of document.querySelectorAll("time[data-form]")) {
    const moment = new Date(element.dateTime);
    element.title = forms.full.format(moment);
    element.textContent = forms[element.dataset.form].format(moment);
  }
  for (const button of document.querySelectorAll("button.copy[hidden]")) button.hidden = false;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("button.copy");
  if (!button) return;
  const source = button.parentElement.querySelector("pre");
  const copied = await copy(source);
  button.textContent = copied ? "Copied" : "Selected";
  setTimeout(() => { button.textContent = "Copy"; }, 1600);
});

/** The clipboard needs a secure page; elsewhere the text is selected, ready for the reader's own copy. */
async function copy(source) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(source.textContent);
      return true;
    } catch { /* refused: fall through to selecting */ }
  }
  getSelection().selectAllChildren(source);
  return false;
}
