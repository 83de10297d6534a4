// The editing mode: clusters and pictures are selected, and what may be done with the selection is in a bar below.
/** @type {Set<number>} */
const selectedClusters = new Set();
/** @type {Set<number>} */
const selectedImages = new Set();
const bar = one(document, "#editing");
const nameField = one(document, "#editing-name", HTMLInputElement);
const editButton = one(document, "#edit");

/**
 * What the buttons do, and with which selection.
 * @type {Record<string, { fits?: (clusters: number, images: number) => boolean, run: () => unknown }>}
 */
const actions = {
  rename: { fits: (c, i) => c === 1 && i === 0, run: renameCluster },
  merge: { fits: (c, i) => c > 1 && i === 0, run: mergeClusters },
  split: { fits: (c, i) => c === 1 && i === 0, run: splitCluster },
  pin: { fits: (c, i) => c > 0 && i === 0, run: () => eachCluster("pin", (name) => `Keep ${name} as it is`) },
  hide: { fits: (c, i) => c > 0 && i === 0, run: () => eachCluster("hide", (name) => `Hide ${name}`) },
  move: { fits: (c, i) => i > 0, run: moveImages },
  examples: { fits: (c, i) => i > 0, run: markExamples },
  splitOff: { fits: (c, i) => i > 0 && c === 0 && homesOfImages().length === 1, run: splitOff },
  together: { fits: (c, i) => i > 1 && c === 0, run: () => relateImages("together", "belong together") },
  apart: { fits: (c, i) => i === 2 && c === 0, run: () => relateImages("apart", "do not belong together") },
  clear: { fits: (c, i) => c + i > 0, run: clearSelection },
  undo: { run: takeBackLast },
  download: { run: downloadEdits },
  apply: { run: applyEdits },
  done: { run: () => setEditing(false) },
};

function isEditing() {
  return !bar.hidden;
}

function startEditing() {
  editButton.hidden = false;
  editButton.addEventListener("click", () => setEditing(!isEditing()));
  bar.addEventListener("click", (event) => {
    const button = around(event, "[data-action]");
    if (button) actions[button.dataset.action].run();
  });
  one(bar, "form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (selectedImages.size) actions[clusterOfText(nameField.value) < 0 ? "examples" : "move"].run();
    else all(bar, ".editing-actions [data-action]:not([hidden])")[0]?.click();
  });
  for (const button of all(bar, "[data-key]")) {
    button.title = `Key ${button.dataset.key.toUpperCase()}`;
    button.setAttribute("aria-keyshortcuts", button.dataset.key);
  }
  // Before a tile's own listener, which opens the viewer.
  document.addEventListener("click", selectTile, { capture: true });
  addEventListener("keydown", editByKey);
  one(document, "#editing-names").append(...clusters.map((_, index) => element("option", { value: labelOf(index) })));
  const author = one(document, "#editing-author", HTMLInputElement);
  author.value = document.body.dataset.author ?? recallAuthor();
  author.addEventListener("change", () => rememberAuthor(author.value));
  one(bar, "[data-action=download]").hidden = isReview;
  one(bar, "[data-action=apply]").hidden = !isReview;
  new ResizeObserver(() => document.body.style.setProperty("--bar", `${bar.offsetHeight}px`)).observe(bar);
  tileListeners.push(markTile);
  entryListeners.push(showEntries);
  showEntries();
  if (entries.length) setEditing(true);
}

/** @param {boolean} on */
function setEditing(on) {
  if (on && !cards[0]?.querySelector(".select-cluster")) addSelectButtons();
  bar.hidden = !on;
  document.body.classList.toggle("is-editing", on);
  editButton.setAttribute("aria-pressed", String(on));
  if (!on) clearSelection();
  showSelection();
  if (!on && bar.contains(document.activeElement)) editButton.focus();
}

function addSelectButtons() {
  cards.forEach((card, index) => {
    const button = element("button", { type: "button", class: "select-cluster", "aria-pressed": "false" });
    button.append(element("span", { class: "visually-hidden" }, `Select ${labelOf(index)}`));
    button.addEventListener("click", () => toggle(selectedClusters, index));
    one(card, "article").prepend(button);
  });
}

/** @param {MouseEvent} event */
function selectTile(event) {
  const tile = around(event, ".tile");
  if (!tile || !isEditing() || tile.closest("dialog")) return;
  event.stopPropagation();
  event.preventDefault();
  toggle(selectedImages, Number(tile.dataset.image));
}

/** @param {Set<number>} selection @param {number} item */
function toggle(selection, item) {
  if (!selection.delete(item)) selection.add(item);
  showSelection();
}

function clearSelection() {
  selectedClusters.clear();
  selectedImages.clear();
  nameField.value = "";
  showProblem("");
  showSelection();
}

/** How a tile looks and what it says of itself while pictures are being selected. @param {HTMLElement} tile */
function markTile(tile) {
  if (tile.closest("dialog")) return;
  if (isEditing()) tile.setAttribute("aria-pressed", String(selectedImages.has(Number(tile.dataset.image))));
  else tile.removeAttribute("aria-pressed");
}

function showSelection() {
  for (const tile of all(document, ".tile")) markTile(tile);
  cards.forEach((card, index) => {
    card.querySelector(".select-cluster")?.setAttribute("aria-pressed", String(selectedClusters.has(index)));
  });
  const [numClusters, numImages] = [selectedClusters.size, selectedImages.size];
  for (const button of all(bar, ".editing-actions [data-action]")) {
    button.hidden = !actions[button.dataset.action].fits?.(numClusters, numImages);
  }
  one(bar, ".editing-name").hidden = numClusters + numImages === 0;
  one(document, "#editing-name-label").textContent =
    numImages > 0 ? "Cluster" : numClusters > 1 ? "Name, if you like" : "New name";
  one(document, "#editing-selected").textContent = selectionText();
}

function selectionText() {
  const parts = [];
  if (selectedClusters.size) parts.push(listed([...selectedClusters].map((index) => clusters[index].name)));
  if (selectedImages.size) parts.push(counted(selectedImages.size, itemName, itemsName));
  if (parts.length) return `Selected: ${parts.join(" and ")}`;
  return report.sheets.length ? `Select clusters or ${itemsName}` : "Select clusters";
}

/** @param {number} number @param {string} singular @param {string} plural */
function counted(number, singular, plural) {
  return `${number.toLocaleString("en")} ${number === 1 ? singular : plural}`;
}

/** @param {string[]} names */
function listed(names) {
  return names.length > 4 ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more` : names.join(", ");
}

/** A cluster as it is typed into the field of names: names may be alike, numbers are not. @param {number} index */
function labelOf(index) {
  const cluster = clusters[index];
  return cluster.name === `cluster ${cluster.id}` ? cluster.name : `${cluster.name} (cluster ${cluster.id})`;
}

/**
 * The place of the cluster that a text stands for, or -1: its label, its number, or its name where only one has it.
 * @param {string} text
 */
function clusterOfText(text) {
  const wanted = normalize(text);
  const found = clusters.map((_, index) => index).filter((index) => (
    [normalize(labelOf(index)), String(clusters[index].id), `cluster ${clusters[index].id}`].includes(wanted)
  ));
  if (found.length === 1) return found[0];
  const named = clusters.map((_, index) => index).filter((index) => normalize(clusters[index].name) === wanted);
  return named.length === 1 ? named[0] : -1;
}

/**
 * Add an edit of the selection; the selection is cleared when it was taken.
 * @param {string} kind
 * @param {object} content
 * @param {string} text
 * @param {number[]} touched
 */
async function finish(kind, content, text, touched) {
  if (await addEdit(kind, content, text, touched)) clearSelection();
}

function typedName() {
  const name = nameField.value.trim();
  if (!name) {
    showProblem("Type a name first.");
    nameField.focus();
  }
  return name;
}

function renameCluster() {
  const [index] = selectedClusters;
  const name = typedName();
  if (name) finish("rename", { cluster: clusterReference(index), name }, `${clusters[index].name} is called ${name}`, [index]);
}

function mergeClusters() {
  const chosen = [...selectedClusters];
  const name = nameField.value.trim();
  const content = { clusters: chosen.map(clusterReference), ...(name ? { name } : {}) };
  const text = `Merge ${listed(chosen.map((index) => clusters[index].name))}${name ? ` as ${name}` : ""}`;
  finish("merge", content, text, chosen);
}

function splitCluster() {
  const [index] = selectedClusters;
  finish("split", { cluster: clusterReference(index), into: 2 }, `${clusters[index].name} is two things`, [index]);
}

/** @param {string} kind @param {(name: string) => string} textOf */
async function eachCluster(kind, textOf) {
  const chosen = [...selectedClusters];
  for (const index of chosen) {
    if (!(await addEdit(kind, { cluster: clusterReference(index) }, textOf(clusters[index].name), [index]))) return;
  }
  clearSelection();
}

/** The clusters that the selected images are in. */
function homesOfImages() {
  return [...new Set([...selectedImages].map((image) => images[image].cluster))].filter((index) => index !== null);
}

function imagesText() {
  return counted(selectedImages.size, itemName, itemsName);
}

function moveImages() {
  const target = selectedClusters.size === 1 ? [...selectedClusters][0] : clusterOfText(nameField.value);
  if (target < 0) {
    showProblem("Choose the cluster to move to: select its card, or type its name or number.");
    nameField.focus();
    return;
  }
  const content = { images: imageIds([...selectedImages]), to: clusterReference(target) };
  finish("move", content, `Move ${imagesText()} to ${clusters[target].name}`, [...new Set([...homesOfImages(), target])]);
}

function markExamples() {
  const target = selectedClusters.size === 1 ? [...selectedClusters][0] : clusterOfText(nameField.value);
  const name = target < 0 ? typedName() : clusters[target].name;
  if (!name) return;
  const content = { of: target < 0 ? name : clusterReference(target), images: imageIds([...selectedImages]) };
  const text = `${imagesText()} ${selectedImages.size === 1 ? "is an example" : "are examples"} of ${name}`;
  finish("examples", content, text, target < 0 ? homesOfImages() : [target]);
}

/** The selected images against the middle of the cluster that they are in. */
function splitOff() {
  const [index] = homesOfImages();
  const rest = clusters[index].exemplars.filter((image) => !selectedImages.has(image)).slice(0, 8);
  if (rest.length === 0) {
    showProblem(`Leave some ${itemsName} of the cluster's middle unselected: they stand for the other part.`);
    return;
  }
  const examples = [imageIds([...selectedImages]), imageIds(rest)];
  finish("split", { cluster: clusterReference(index), examples }, `Split ${imagesText()} and their like off ${clusters[index].name}`, [index]);
}

/** @param {string} kind @param {string} words */
function relateImages(kind, words) {
  finish(kind, { images: imageIds([...selectedImages]) }, `${imagesText()} ${words}`, homesOfImages());
}

/** @param {KeyboardEvent} event */
function editByKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || around(event, "dialog[open]")) return;
  const field = around(event, "input, select, textarea");
  if (event.key === "Escape" && isEditing()) {
    if (field) field.blur();
    else if (selectedClusters.size + selectedImages.size) clearSelection();
    else setEditing(false);
    return;
  }
  if (field) return;
  if (event.key === "e") {
    event.preventDefault();
    setEditing(!isEditing());
    return;
  }
  if (!isEditing()) return;
  const button = all(bar, "[data-key]", HTMLButtonElement).find(
    (candidate) => candidate.dataset.key === event.key && !candidate.hidden && !candidate.disabled,
  );
  if (button) {
    event.preventDefault();
    button.click();
  }
}

function takeBackLast() {
  const last = entries.at(-1);
  if (last) removeEdit(last);
}

/** The list of corrections, and a line on every card that one of them touches. */
function showEntries() {
  one(document, "#editing-count").textContent = entries.length
    ? counted(entries.length, "correction", "corrections")
    : "No corrections yet";
  one(document, "#editing-entries").replaceChildren(
    ...entries.map((entry) => {
      const button = element("button", { type: "button", class: "text-button", "aria-label": `Take back: ${entry.text}` }, "Take back");
      button.addEventListener("click", () => removeEdit(entry));
      return element("li", {}, element("span", {}, entry.text), button);
    }),
  );
  for (const name of ["undo", "download", "apply"]) {
    one(bar, `[data-action=${name}]`, HTMLButtonElement).disabled = entries.length === 0;
  }
  for (const line of document.querySelectorAll(".card-edits")) line.remove();
  /** @type {Map<number, string[]>} */
  const texts = new Map();
  for (const { text, clusters: touched } of entries) {
    for (const index of touched) texts.set(index, [...(texts.get(index) ?? []), text]);
  }
  for (const [index, lines] of texts) {
    one(cards[index], "article").append(element("p", { class: "card-edits" }, lines.join("; ")));
  }
}

async function applyEdits() {
  const button = one(bar, "[data-action=apply]", HTMLButtonElement);
  button.disabled = true;
  button.textContent = "Applying …";
  const problem = await send("apply", {});
  button.textContent = "Apply";
  button.disabled = false;
  if (problem) showProblem(problem);
  else location.reload();
}

function recallAuthor() {
  try {
    return localStorage.getItem("dxmc-author") ?? "";
  } catch {
    return "";
  }
}

/** @param {string} name */
function rememberAuthor(name) {
  try {
    localStorage.setItem("dxmc-author", name);
  } catch {
    return;
  }
}
