// Questions where an answer helps most, one at a time: Y, N, S and U answer, skip and go back.
const asked = one(document, "#questions", HTMLDialogElement);
const questions = report.questions.map(([kind, first, second, shown, otherShown, ids, otherIds, name, mended, chance], place) => (
  { kind, first, second, shown, otherShown, ids, otherIds, name, mended, chance, place }
));
/** @typedef {(typeof questions)[number]} Question */
/** @type {Question | null} */
let current = null;
/** Places of questions. @type {Set<number>} */
const skipped = new Set();
/** In the order in which they were shown. @type {number[]} */
const shownBefore = [];

function startQuestions() {
  const button = document.getElementById("ask");
  if (!button) return;
  button.hidden = false;
  button.addEventListener("click", () => {
    skipped.clear();
    asked.showModal();
    showQuestion(nextQuestion());
  });
  asked.addEventListener("click", (event) => {
    const choice = around(event, "[data-answer]");
    if (choice) answer(choice.dataset.answer);
    else if (event.target === asked) asked.close();
  });
  asked.addEventListener("keydown", (event) => {
    const choice = { y: "yes", n: "no", s: "skip", u: "back" }[event.key.toLowerCase()];
    if (!choice || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    answer(choice);
  });
  asked.addEventListener("close", () => { if (entries.length) setEditing(true); });
  entryListeners.push(showNumQuestions);
  showNumQuestions();
}

function showNumQuestions() {
  const open = openQuestions().length;
  const button = one(document, "#ask", HTMLButtonElement);
  button.textContent = open ? counted(open, "question", "questions") : "No questions left";
  button.disabled = open === 0 && !asked.open;
}

/** What the answers given so far say of pairs of clusters: one is the same as another, or not. */
function knownPairs() {
  const top = clusters.map((_, index) => index);
  /** @type {(index: number) => number} */
  const find = (index) => (top[index] === index ? index : find(top[index]));
  for (const { edit, clusters: touched } of entries) {
    if (edit.merge) for (const index of touched.slice(1)) top[find(index)] = find(touched[0]);
  }
  const apart = new Set();
  for (const { edit, question, clusters: touched } of entries) {
    if (question === null || !edit.apart || questions[question].kind !== "merge") continue;
    apart.add(touched.map(find).sort((a, b) => a - b).join());
  }
  return { find, apart };
}

/** Questions without an answer, but for those whose answer follows from others. */
function openQuestions() {
  const answered = new Set(entries.map((entry) => entry.question));
  /** @type {Set<number | null>} */
  const hidden = new Set(entries.flatMap(({ edit, clusters: touched }) => (edit.hide ? touched : [])));
  // What was moved out of a cluster leaves another one, which the next report asks about.
  const changed = new Set(entries.filter(({ edit, question }) => edit.move && question !== null).map(({ clusters: touched }) => touched[0]));
  const { find, apart } = knownPairs();
  return questions.filter(({ kind, first, second, place }) => {
    if (answered.has(place) || skipped.has(place) || hidden.has(first) || hidden.has(second)) return false;
    if (second === null) return kind !== "split" || !changed.has(first);
    const pair = [find(first), find(second)].sort((a, b) => a - b);
    return pair[0] !== pair[1] && !(kind === "merge" && apart.has(pair.join()));
  });
}

/** The question whose answer is worth most: the images it would put right, by how likely a yes is. */
function nextQuestion() {
  const open = openQuestions();
  // A name puts no image right, and has its turn now and then.
  const name = open.find(({ kind }) => kind === "rename");
  if (name && (shownBefore.length % 6 === 5 || open.every(({ kind }) => kind === "rename"))) return name;
  const trust = trustInKinds();
  /** @param {Question} question */
  const worth = ({ kind, mended, chance }) => mended * chance * (trust[kind] ?? 0);
  return open.sort((a, b) => worth(b) - worth(a)).at(0) ?? null;
}

/** By kind of question, how much more often the answer was yes than expected. */
function trustInKinds() {
  /** @type {Record<string, number[]>} */
  const counts = { merge: [1, 1], split: [1, 1], move: [1, 1] };
  for (const { edit, question } of entries) {
    if (question === null || !(questions[question].kind in counts)) continue;
    const { kind, chance } = questions[question];
    counts[kind][0] += kind in edit ? 1 : 0;
    counts[kind][1] += chance;
  }
  return Object.fromEntries(Object.entries(counts).map(([kind, [found, expected]]) => [kind, found / expected]));
}

/** @param {Question | null} question */
function showQuestion(question) {
  current = question;
  showProblem("");
  const isOver = question === null;
  one(asked, ".question-sides").hidden = isOver;
  for (const button of all(asked, "[data-answer]:not([data-answer=close])", HTMLButtonElement)) button.disabled = isOver;
  one(asked, "[data-answer=back]", HTMLButtonElement).disabled = shownBefore.length === 0;
  one(document, "#question-place").textContent = isOver ? "" : placeText(question);
  one(document, "#question-text").textContent = isOver ? endText() : questionText(question);
  if (!isOver) showSides(question);
  one(document, "#question-text").focus();
}

/** @param {Question} question */
function placeText(question) {
  const rest = openQuestions().length - 1;
  const mends = question.mended ? ` · about ${counted(question.mended, itemName, itemsName)}` : "";
  return `${rest ? `${counted(rest, "more", "more")} after this` : "the last one"}${mends}`;
}

function endText() {
  return isReview ? "No questions left. Apply the answers to get new ones." : "No questions left.";
}

/** The name of a cluster, or "" where there is none. @param {number | null} index */
function nameOf(index) {
  return index === null ? "" : clusters[index].name;
}

/** @param {Question} question */
function questionText({ kind, first, second, name }) {
  if (kind === "merge") return "Do these two clusters show the same thing?";
  if (kind === "split") return `Are these two different things? Both are in “${nameOf(first)}”.`;
  if (kind === "move") return `Do the upper ones, now in “${nameOf(first)}”, belong to “${nameOf(second)}”?`;
  return `Is “${name}” a good name for this cluster?`;
}

/** @param {Question} question */
function showSides(question) {
  const [first, second] = all(asked, ".question-side");
  /** @param {number | null} index */
  const named = (index) => (index === null ? "" : `${nameOf(index)} · ${counted(clusters[index].size, itemName, itemsName)}`);
  const titles = {
    merge: [named(question.first), named(question.second)],
    split: ["These", "And these"],
    move: [`These, in ${nameOf(question.first)}`, named(question.second)],
    rename: [named(question.first), ""],
  }[question.kind];
  fillSide(first, titles[0], question.shown);
  fillSide(second, titles[1], question.otherShown);
  second.hidden = question.otherShown.length === 0;
}

/** @param {HTMLElement} side @param {string} title @param {number[]} list */
function fillSide(side, title, list) {
  one(side, "h3").textContent = title;
  const tiles = one(side, ".question-tiles");
  const fresh = /** @type {HTMLElement} */ (tiles.cloneNode(false));
  fresh.append(...list.map((_, position) => tileButton(list, position)));
  // Here they are looked at, and not selected.
  for (const tile of fresh.children) tile.removeAttribute("aria-pressed");
  makeRoving(fresh);
  tiles.replaceWith(fresh);
}

/** @param {string} choice */
async function answer(choice) {
  if (choice === "close") return asked.close();
  if (choice === "back") return goBack();
  if (current === null) return undefined;
  const question = current;
  // That a name is not good leaves nothing to keep.
  if (choice === "skip" || (choice === "no" && question.kind === "rename")) skipped.add(question.place);
  else if (!(await keepAnswer(question, choice === "yes"))) return undefined;
  shownBefore.push(question.place);
  return showQuestion(nextQuestion());
}

/** To the question before, whose answer is taken back. */
async function goBack() {
  const place = shownBefore.at(-1);
  if (place === undefined) return;
  const entry = entries.find((candidate) => candidate.question === place);
  if (entry && !(await removeEdit(entry))) return;
  shownBefore.pop();
  skipped.delete(place);
  showQuestion(questions[place]);
}

/**
 * What an answer says, as an edit: a no is kept as images that do or do not belong together.
 * @param {Question} question
 * @param {boolean} isYes
 */
function keepAnswer(question, isYes) {
  const { kind, first, second, shown, otherShown, ids, otherIds, name, place } = question;
  const [here, there] = [nameOf(first), nameOf(second)];
  const touched = second === null ? [first] : [first, second];
  const middles = { images: imageIds([shown[0], otherShown[0]]) };
  /** @type {(kind: string, content: object, text: string) => Promise<boolean>} */
  const add = (edit, content, text) => addEdit(edit, content, text, touched, place);
  if (kind === "merge") {
    if (isYes) return add("merge", { clusters: touched.map(clusterReference) }, `Merge ${here} and ${there}`);
    return add("apart", middles, `${here} and ${there} are not the same`);
  }
  if (kind === "split") {
    const examples = [ids, otherIds];
    if (isYes) return add("split", { cluster: clusterReference(first), examples }, `${here} is two things`);
    return add("together", middles, `${here} is one thing`);
  }
  if (kind === "move") {
    if (isYes) return add("move", { images: ids, to: clusterReference(touched[1]) }, `Move ${counted(ids.length, itemName, itemsName)} from ${here} to ${there}`);
    return add("apart", middles, `Some of ${here} are not ${there}`);
  }
  return add("rename", { cluster: clusterReference(first), name }, `${here} is called ${name}`);
}
