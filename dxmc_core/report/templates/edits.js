// Corrections that a person has made: a list that is kept with the page, taken back, and downloaded or sent to `dxmc review`.
// An entry is what edits.yaml gets, what the list says, which cards it touches by their places, and the question that
// it answers.
/** @typedef {{ id: string, author: string, at: string, reason?: string, [kind: string]: unknown }} Edit */
/** @typedef {{ edit: Edit, text: string, clusters: number[], question: number | null }} Entry */
const isReview = document.body.dataset.review === "yes";
const entries = recallEntries();
/** @type {(() => void)[]} */
const entryListeners = [];

/**
 * Add a correction of one kind, and send it where somebody takes it; resolves to whether it was taken.
 * @param {string} kind
 * @param {object} content
 * @param {string} text
 * @param {number[]} touched
 * @param {number | null} question
 */
async function addEdit(kind, content, text, touched, question = null) {
  /** @type {Edit} */
  const edit = {
    id: [...crypto.getRandomValues(new Uint8Array(4))].map((byte) => byte.toString(16).padStart(2, "0")).join(""),
    author: one(document, "#editing-author", HTMLInputElement).value.trim() || "somebody",
    at: new Date().toISOString().replace(/\.\d+Z$/, "Z"),
  };
  const reason = one(document, "#editing-reason", HTMLInputElement).value.trim();
  if (reason) edit.reason = reason;
  edit[kind] = content;
  if (isReview) {
    const problem = await send("edits", { version: 1, edits: [edit] });
    if (problem) return showProblem(problem);
  }
  entries.push({ edit, text, clusters: touched, question });
  entriesChanged();
  announce(text);
  return true;
}

/** Take a correction back; resolves to whether that was done. @param {Entry} entry */
async function removeEdit(entry) {
  if (isReview) {
    const problem = await send("undo", { id: entry.edit.id });
    if (problem) return showProblem(problem);
  }
  entries.splice(entries.indexOf(entry), 1);
  entriesChanged();
  announce(`Taken back: ${entry.text}`);
  return true;
}

function entriesChanged() {
  rememberEntries();
  showProblem("");
  for (const listener of entryListeners) listener();
}

/** @param {string} text */
function showProblem(text) {
  for (const place of all(document, ".editing-error")) {
    place.textContent = text;
    place.hidden = !text;
  }
  return false;
}

/**
 * Ask `dxmc review` for something; resolves to what went wrong, or to "".
 * @param {string} path
 * @param {object} content
 */
async function send(path, content) {
  try {
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch(path, { method: "POST", headers, body: yamlText(content) });
    return answer.ok ? "" : (await answer.json()).error;
  } catch {
    return "dxmc review does not answer; is it still running? Nothing was kept.";
  }
}

/**
 * A cluster as edits name it: its number, and images by which it is found when numbers have changed.
 * @param {number} index
 */
function clusterReference(index) {
  const cluster = clusters[index];
  return { id: cluster.id, images: imageIds(cluster.exemplars.slice(0, 5)) };
}

/** @param {number[]} list */
function imageIds(list) {
  return list.map((index) => images[index].id);
}

/** The file edits.yaml. */
function editsFile() {
  return ["version: 1", "edits:", ...entries.map(({ edit }) => `  - ${yamlText(edit)}`), ""].join("\n");
}

/** JSON, which is YAML but for characters that may not stand there as they are. @param {object} value */
function yamlText(value) {
  /** @param {string} character */
  const escaped = (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(value).replace(/[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]/g, escaped);
}

function downloadEdits() {
  const address = URL.createObjectURL(new Blob([editsFile()], { type: "application/yaml" }));
  element("a", { href: address, download: "edits.yaml" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}

// What was done outlives a reload, where the browser lets local files store anything.
/** @returns {Entry[]} */
function recallEntries() {
  try {
    /** @type {Entry[]} */
    const kept = JSON.parse(localStorage.getItem(`dxmc-edits ${report.made}`) ?? "[]");
    return kept.filter((entry) => entry.clusters.every((index) => index in clusters));
  } catch {
    return [];
  }
}

function rememberEntries() {
  try {
    localStorage.setItem(`dxmc-edits ${report.made}`, JSON.stringify(entries));
  } catch {
    return;
  }
}
