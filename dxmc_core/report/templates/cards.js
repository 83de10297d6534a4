// Cluster cards: pictures come when a card nears the screen; search, sorting and density act on all cards.
const searchTexts = clusters.map((cluster) => normalize([...cluster.words, `cluster ${cluster.id}`].join("\n")));
const clusterImages = imagesByCluster();
let query = "";

/** @param {string} text */
function normalize(text) {
  return text.toLowerCase().replace(/[^\S\n]+/g, " ").trim();
}

/** @typedef {{ index: number, text: string }} FoundImage */

/** For each cluster, the images of the report that belong to it, with their ids in lower case. */
function imagesByCluster() {
  /** @type {FoundImage[][]} */
  const members = clusters.map(() => []);
  images.forEach((image, index) => {
    if (image.cluster !== null) members[image.cluster].push({ index, text: normalize(image.id) });
  });
  return members;
}

function startCards() {
  const arrival = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) {
          arrival.unobserve(entry.target);
          fillPictures(/** @type {HTMLElement} */ (entry.target));
        }
      }
    },
    { rootMargin: "500px" },
  );
  for (const card of cards) arrival.observe(card);
  for (const place of all(document, ".gallery-tile")) arrival.observe(place);
  addEventListener("beforeprint", () => {
    for (const place of [...cards, ...all(document, ".gallery-tile")]) fillPictures(place);
  });
  startTools();
  startLinks();
}

/**
 * Put the tiles into a card, or the one tile into a place of a gallery; a second call does nothing.
 * @param {HTMLElement} place
 */
function fillPictures(place) {
  if (place.dataset.filled) return;
  place.dataset.filled = "yes";
  if (place.matches(".gallery-tile")) {
    const gallery = place.closest(".gallery");
    const tiles = gallery ? all(gallery, ".gallery-tile") : [];
    const list = tiles.map((tile) => Number(tile.dataset.row));
    const position = list.indexOf(Number(place.dataset.row));
    if (images[list[position]].tile) place.append(tileButton(list, position));
    return;
  }
  const cluster = clusters[Number(place.dataset.index)];
  for (const group of all(place, "[data-pictures]")) {
    const list = group.dataset.pictures === "duplicates" ? cluster.duplicates.flat() : cluster[group.dataset.pictures];
    const room = Number(group.dataset.layout ?? 6);
    const aspect = room === 1 ? 5 / 3 : 1;
    group.append(...list.slice(0, room).map((_, position) => tileButton(list, position, aspect)));
    makeRoving(group);
  }
  markFound(place);
}

/** One stop for the Tab key a group of tiles; arrow keys walk within it. @param {HTMLElement} group */
function makeRoving(group) {
  const tiles = all(group, ".tile");
  tiles.forEach((tile, position) => { tile.tabIndex = position === 0 ? 0 : -1; });
  group.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    const from = tiles.findIndex((tile) => tile === document.activeElement);
    if (!step || from < 0) return;
    event.preventDefault();
    const to = tiles[(from + step + tiles.length) % tiles.length];
    tiles[from].tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  });
}

function startTools() {
  const search = one(document, "#search", HTMLInputElement);
  const sort = one(document, "#sort", HTMLSelectElement);
  search.form?.addEventListener("submit", (event) => event.preventDefault());
  search.addEventListener("input", () => applySearch(search.value));
  one(document, "#clear").addEventListener("click", () => { clearSearch(); search.focus(); });
  sort.addEventListener("change", () => sortCards(sort.value));
  addEventListener("keydown", (event) => {
    const typing = around(event, "input, select, textarea, dialog");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
      search.select();
    }
  });
  const section = one(document, "#clusters");
  const densities = all(section, "[data-density]");
  for (const button of densities) {
    button.addEventListener("click", () => {
      section.classList.toggle("compact", button.dataset.density === "compact");
      for (const other of densities) other.setAttribute("aria-pressed", String(other === button));
    });
  }
  // A browser may have kept what was typed and chosen before the page was loaded again.
  if (search.value) applySearch(search.value);
  if (sort.value !== "size") sortCards(sort.value);
}

/** Show the clusters whose words, or one of whose images' ids, contain the text. @param {string} text */
function applySearch(text) {
  query = normalize(text);
  let shown = 0;
  cards.forEach((card, index) => {
    const byName = searchTexts[index].includes(query);
    const found = byName || !query ? [] : clusterImages[index].filter((member) => member.text.includes(query));
    card.hidden = !byName && found.length === 0;
    shown += card.hidden ? 0 : 1;
    const match = one(card, ".match");
    match.hidden = found.length === 0;
    match.textContent = found.length === 0 ? "" : matchText(found);
    if (card.dataset.filled) markFound(card);
  });
  const total = `${cards.length.toLocaleString("en")} ${cards.length === 1 ? "cluster" : "clusters"}`;
  one(document, "#count").textContent = query ? `${shown.toLocaleString("en")} of ${total}` : total;
  one(document, "#nothing").hidden = shown > 0 || !query;
}

/** @param {FoundImage[]} found */
function matchText(found) {
  const more = found.length === 1 ? "" : ` and ${found.length - 1} more`;
  return `${images[found[0].index].id}${more}`;
}

/** Ring the tiles whose image id was searched for. @param {HTMLElement} card */
function markFound(card) {
  const byName = !query || searchTexts[Number(card.dataset.index)].includes(query);
  for (const tile of all(card, ".tile")) {
    tile.classList.toggle("found", !byName && normalize(images[Number(tile.dataset.image)].id).includes(query));
  }
}

function clearSearch() {
  one(document, "#search", HTMLInputElement).value = "";
  applySearch("");
}

/** @param {string} order */
function sortCards(order) {
  /** @type {Record<string, (a: Cluster, b: Cluster) => number>} */
  const orders = {
    size: (a, b) => b.size - a.size,
    name: (a, b) => a.name.localeCompare(b.name),
    doubt: (a, b) => (b.doubtful ?? -1) - (a.doubtful ?? -1),
    sure: (a, b) => (a.doubtful ?? 2) - (b.doubtful ?? 2),
    id: (a, b) => a.id - b.id,
  };
  const sorted = clusters.map((_, index) => index).sort((a, b) => orders[order](clusters[a], clusters[b]) || a - b);
  one(document, "#cards").append(...sorted.map((index) => cards[index]));
}

/** Links to cluster cards work from everywhere, also when a search hides the card or a dialog covers it. */
function startLinks() {
  const indexOfId = new Map(clusters.map((cluster, index) => [`#cluster-${cluster.id}`, index]));
  document.addEventListener("click", (event) => {
    const link = around(event, "a", Element);
    const index = link && indexOfId.get(link.getAttribute("href") ?? "");
    if (index === undefined || index === null || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    if (viewer.open) viewer.close();
    goToCluster(index);
  });
  const opened = indexOfId.get(location.hash);
  if (opened !== undefined) goToCluster(opened);
}
