// The report's data, and the few things every other part of the script uses.
/** @type {Payload} */
const report = JSON.parse(one(document, "#report-data").textContent);
const images = report.images.map(([id, uri, cluster, sureness, runnerUp, outlierScore, label, tile]) => (
  { id, uri, cluster, sureness, runnerUp, outlierScore, label, tile }
));
const clusters = report.clusters;
const [itemName, itemsName] = report.item;
const cards = all(document, ".card");

/** Say something to screen readers. @param {string} text */
function announce(text) {
  one(document, "#announcer").textContent = text;
}

/**
 * Scroll to a cluster's card and put the focus there; a search that hides it is cleared first.
 * @param {number} index
 */
function goToCluster(index) {
  const card = cards[index];
  if (card.hidden) clearSearch();
  location.hash = card.id;
  // Cards that were never on screen have an estimated height: once they are laid out, the place may have moved.
  requestAnimationFrame(() => requestAnimationFrame(() => card.scrollIntoView({ behavior: "instant", block: "start" })));
  card.focus({ preventScroll: true });
}

/** @typedef {"system" | "light" | "dark"} Theme */

/**
 * The switch between the system's theme, light and dark; `onChange` is called whenever colours may have changed.
 * @param {() => void} onChange
 */
function startTheme(onChange) {
  const button = one(document, "#theme");
  const texts = { system: "System colours", light: "Light", dark: "Dark" };
  /** @type {Record<Theme, Theme>} */
  const next = { system: "light", light: "dark", dark: "system" };
  let theme = recallTheme();
  const apply = () => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = texts[theme];
    button.setAttribute("aria-label", `Colours: ${texts[theme]}. Change to ${texts[next[theme]]}`);
    onChange();
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = next[theme];
    rememberTheme(theme);
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", onChange);
  apply();
}

// A browser may refuse storage to local files; the theme is then forgotten with the page.
/** @returns {Theme} */
function recallTheme() {
  try {
    const theme = localStorage.getItem("dxmc-report-theme");
    return theme === "light" || theme === "dark" ? theme : "system";
  } catch {
    return "system";
  }
}

/** @param {Theme} theme */
function rememberTheme(theme) {
  try {
    localStorage.setItem("dxmc-report-theme", theme);
  } catch {
    return;
  }
}
