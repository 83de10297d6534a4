// Pictures live in sprite sheets, each the text of a <script type="text/plain">. A sheet is decoded when it is first shown.
const sheetStyles = new CSSStyleSheet();
document.adoptedStyleSheets = [sheetStyles];
/** @type {Set<number>} */
const styledSheets = new Set();
/** @type {Map<number, HTMLImageElement>} */
const decodedSheets = new Map();

/** @param {number} sheet */
function sheetUri(sheet) {
  return one(document, `#sheet-${sheet}`).textContent;
}

/**
 * Show a tile as the background of an element: all of it, or the largest middle part with the given width over height.
 * @param {HTMLElement} target
 * @param {Tile} tile
 * @param {number | null} aspect
 */
function paint(target, tile, aspect = null) {
  // Half a pixel less on each side: scaling must not draw on the neighbours in the sheet.
  const [sheet, x, y, width, height] = [tile[0], tile[1] + 0.5, tile[2] + 0.5, tile[3] - 1, tile[4] - 1];
  const [sheetWidth, sheetHeight] = report.sheets[sheet];
  const shownWidth = aspect === null ? width : Math.min(width, height * aspect);
  const shownHeight = aspect === null ? height : Math.min(height, width / aspect);
  const left = x + (width - shownWidth) / 2;
  const top = y + (height - shownHeight) / 2;
  if (!styledSheets.has(sheet)) {
    styledSheets.add(sheet);
    sheetStyles.insertRule(`.sheet-${sheet}{background-image:url(${sheetUri(sheet)})}`);
  }
  target.className = target.className.replace(/\s*\bsheet-\d+/, "");
  target.classList.add(`sheet-${sheet}`);
  target.style.backgroundSize = `${(100 * sheetWidth) / shownWidth}% ${(100 * sheetHeight) / shownHeight}%`;
  target.style.backgroundPosition = `${place(left, sheetWidth - shownWidth)} ${place(top, sheetHeight - shownHeight)}`;
}

/**
 * A background position in percent: of the room that the picture has beyond its box.
 * @param {number} offset
 * @param {number} room
 */
function place(offset, room) {
  return room > 0 ? `${(100 * offset) / room}%` : "0%";
}

/**
 * Show a whole tile in a box of at most `side` CSS pixels, enlarged at most `enlarge` times.
 * @param {HTMLElement} target
 * @param {Tile} tile
 * @param {number} side
 * @param {number} enlarge
 */
function paintWhole(target, tile, side, enlarge) {
  const [, , , width, height] = tile;
  const scale = Math.min(side / Math.max(width, height), enlarge);
  target.style.width = `${Math.round(width * scale)}px`;
  target.style.height = `${Math.round(height * scale)}px`;
  paint(target, tile);
}

/**
 * A sheet as an image for a canvas, or null while it is being decoded; `onReady` is then called.
 * @param {number} sheet
 * @param {() => void} onReady
 */
function sheetImage(sheet, onReady) {
  const picture = decodedSheets.get(sheet) ?? new Image();
  if (!decodedSheets.has(sheet)) {
    picture.onload = onReady;
    picture.src = sheetUri(sheet);
    decodedSheets.set(sheet, picture);
  }
  return picture.complete && picture.naturalWidth > 0 ? picture : null;
}

/** Called with every tile that is made. @type {((tile: HTMLElement) => void)[]} */
const tileListeners = [];

/**
 * A button that shows an image and opens it in the viewer, as the `position`-th of the images `list`.
 * @param {number[]} list
 * @param {number} position
 */
function tileButton(list, position, aspect = 1) {
  const image = images[list[position]];
  const button = element("button", { type: "button", class: "tile", "aria-label": image.id, title: image.id });
  if (image.tile) {
    paint(button, image.tile, aspect);
  } else {
    button.classList.add("without");
    button.textContent = image.id;
  }
  button.dataset.image = String(list[position]);
  button.addEventListener("click", () => openViewer(list, position));
  for (const listener of tileListeners) listener(button);
  return button;
}
